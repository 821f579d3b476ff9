-- One row per MLE fit of either pipeline, successful or not, with the names that model-fitting
-- users know.
-- status is `success` or the writer's own words. params maps each parameter to its value.
-- prediction_accuracy_test, prediction_accuracy_fit and prediction_accuracy_test_bias_only are the
-- lists of the document's cross_validation, one value per fold, NULL where none was done. All fits
-- of every collection are here, repeated ones too: latest_analyses has the newest of each session
-- and agent. Name a subject, a date or an agent to be quick.
--
--   _id: The document's `_id`.
--   status: `success`, or how the fit ended in the writer's own words.
--   AIC: Akaike's information criterion, lower is better.
--   BIC: The Bayesian information criterion, lower is better.
--   LPT: Likelihood per trial.
--   LPT_AIC: Likelihood per trial, penalized as AIC.
--   LPT_BIC: Likelihood per trial, penalized as BIC.
--   params: Each parameter of the agent with its value.
--   prediction_accuracy_test: Prediction accuracy on held-out trials, from 0 to 1, one value a
--     fold.
--   prediction_accuracy_fit: Prediction accuracy on the trials fitted to, one value per fold.
--   prediction_accuracy_test_bias_only: Accuracy on the held-out trials of always predicting the
--     side chosen more often, one value per fold.
--   analysis_time: When the analysis was done.
--   S3_location: The result folder.
--   CO_asset_id: The addresses of the data assets analysed; NULL for the prototype.
--   analysis_tag: The framework's tag of the analysis, else its version; NULL for the prototype.
--   pipeline_source: The pipeline that wrote the record, `aind analysis framework` or `han's
--     analysis pipeline`.
WITH children AS (
    SELECT
        source_collection,
        record_id,
        process_index,
        parameter,
        value,
        NULL::SMALLINT AS fold,
        NULL::DOUBLE AS accuracy_test,
        NULL::DOUBLE AS accuracy_fit,
        NULL::DOUBLE AS accuracy_test_bias_only,
        NULL::SMALLINT AS position,
        NULL::VARCHAR AS url
    FROM fit_parameters
    UNION ALL
    SELECT
        source_collection,
        record_id,
        process_index,
        NULL,
        NULL,
        fold,
        prediction_accuracy_test,
        prediction_accuracy_fit,
        prediction_accuracy_test_bias_only,
        NULL,
        NULL
    FROM cross_validation
    UNION ALL
    SELECT
        source_collection,
        record_id,
        process_index,
        NULL,
        NULL,
        NULL,
        NULL,
        NULL,
        NULL,
        position,
        url
    FROM input_assets
),
-- First joined, then grouped by every column of the analysis, so that a filter on any of them
-- reaches the analyses and only the children of those are gathered. Children grouped on their own,
-- or by correlated or lateral subqueries, are gathered for all fits in one DuckDB or another.
gathered AS (
    SELECT
        analyses.source_collection,
        analyses.record_id,
        analyses.process_index,
        analyses.nwb_name,
        analyses.subject_id,
        analyses.session_date,
        analyses.outcome,
        analyses.status,
        analyses.agent_alias,
        analyses.n_trials,
        analyses.log_likelihood,
        analyses.prediction_accuracy,
        analyses.k_model,
        analyses.aic,
        analyses.bic,
        analyses.lpt,
        analyses.lpt_aic,
        analyses.lpt_bic,
        analyses.finished_at,
        analyses.result_location,
        analyses.pipeline_format,
        analyses.analysis_version,
        list(url ORDER BY position) FILTER (WHERE position IS NOT NULL) AS urls,
        list(parameter ORDER BY parameter) FILTER (WHERE parameter IS NOT NULL) AS parameter_names,
        list(value ORDER BY parameter) FILTER (WHERE parameter IS NOT NULL) AS parameter_values,
        list(accuracy_test ORDER BY fold) FILTER (WHERE fold IS NOT NULL) AS test,
        list(accuracy_fit ORDER BY fold) FILTER (WHERE fold IS NOT NULL) AS fit,
        list(accuracy_test_bias_only ORDER BY fold) FILTER (WHERE fold IS NOT NULL)
            AS test_bias_only,
        count(accuracy_test) AS n_test,
        count(accuracy_fit) AS n_fit,
        count(accuracy_test_bias_only) AS n_test_bias_only
    FROM analyses
    LEFT JOIN children USING (source_collection, record_id, process_index)
    WHERE analyses.analysis_name = 'MLE fitting'
    -- Spelt out, because a filter does not pass GROUP BY ALL in DuckDB 1.1.
    GROUP BY
        analyses.source_collection,
        analyses.record_id,
        analyses.process_index,
        analyses.nwb_name,
        analyses.subject_id,
        analyses.session_date,
        analyses.outcome,
        analyses.status,
        analyses.agent_alias,
        analyses.n_trials,
        analyses.log_likelihood,
        analyses.prediction_accuracy,
        analyses.k_model,
        analyses.aic,
        analyses.bic,
        analyses.lpt,
        analyses.lpt_aic,
        analyses.lpt_bic,
        analyses.finished_at,
        analyses.result_location,
        analyses.pipeline_format,
        analyses.analysis_version
)
SELECT
    record_id AS "_id",
    nwb_name,
    subject_id,
    session_date,
    CASE WHEN outcome = 'success' THEN 'success' ELSE status END AS status,
    agent_alias,
    n_trials,
    log_likelihood,
    prediction_accuracy,
    k_model,
    aic AS "AIC",
    bic AS "BIC",
    lpt AS "LPT",
    lpt_aic AS "LPT_AIC",
    lpt_bic AS "LPT_BIC",
    CASE WHEN parameter_names IS NOT NULL THEN map(parameter_names, parameter_values) END AS params,
    CASE WHEN n_test > 0 THEN test END AS prediction_accuracy_test,
    CASE WHEN n_fit > 0 THEN fit END AS prediction_accuracy_fit,
    CASE WHEN n_test_bias_only > 0 THEN test_bias_only END AS prediction_accuracy_test_bias_only,
    finished_at AS analysis_time,
    result_location AS "S3_location",
    CASE WHEN pipeline_format = 'framework' THEN coalesce(urls, []::VARCHAR[]) END AS "CO_asset_id",
    CASE WHEN pipeline_format = 'framework' THEN analysis_version END AS analysis_tag,
    CASE pipeline_format
        WHEN 'framework' THEN 'aind analysis framework'
        WHEN 'prototype' THEN 'han''s analysis pipeline'
    END AS pipeline_source
FROM gathered
