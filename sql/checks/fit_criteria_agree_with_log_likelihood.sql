-- AIC, BIC and the likelihoods per trial of successful analyses follow from log_likelihood, k_model
-- and n_trials, within a relative 1e-6.
-- Values that a document lacks are not compared.
-- A warning: it concerns the documents, not the tables derived from them.
WITH fits AS (
    SELECT
        source_collection,
        record_id,
        process_index,
        aic,
        bic,
        lpt,
        lpt_aic,
        lpt_bic,
        2 * k_model - 2 * log_likelihood AS expected_aic,
        k_model * ln(n_trials) - 2 * log_likelihood AS expected_bic,
        log_likelihood / n_trials AS log_lpt,
        n_trials
    FROM (
        -- Neither the logarithm of 0 trials nor a value per trial is defined.
        SELECT * REPLACE (CASE WHEN n_trials > 0 THEN n_trials END AS n_trials)
        FROM analyses
        WHERE outcome = 'success'
    ) AS successful
),
compared AS (
    SELECT source_collection, record_id, process_index, 'aic' AS criterion,
        aic AS found, expected_aic AS expected
    FROM fits
    UNION ALL
    SELECT source_collection, record_id, process_index, 'bic', bic, expected_bic
    FROM fits
    UNION ALL
    SELECT source_collection, record_id, process_index, 'lpt', lpt, exp(log_lpt)
    FROM fits
    UNION ALL
    SELECT source_collection, record_id, process_index, 'lpt_aic', lpt_aic,
        exp(-expected_aic / (2 * n_trials))
    FROM fits
    UNION ALL
    SELECT source_collection, record_id, process_index, 'lpt_bic', lpt_bic,
        exp(-expected_bic / (2 * n_trials))
    FROM fits
)
SELECT *
FROM compared
WHERE abs(found - expected) > 1e-6 * greatest(abs(found), abs(expected))
