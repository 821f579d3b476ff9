-- One row per MLE fit of either pipeline, successful or not, with the names that model-fitting
-- users know.
-- It has every fit of all collections, also repeated ones; latest_analyses has the newest per
-- session and agent. The values come from mle_fits, which is sorted by subject and date.
--
--   _id: The document's `_id`.
--   status: `success`, or the writer's own description of how the fit ended.
--   AIC: Akaike's information criterion, lower is better.
--   BIC: The Bayesian information criterion, lower is better.
--   LPT: Likelihood per trial.
--   LPT_AIC: Likelihood per trial with AIC's penalty.
--   LPT_BIC: Likelihood per trial with BIC's penalty.
--   params: Each parameter of the agent with its value.
--   prediction_accuracy_test: Prediction accuracy on held-out trials, from 0 to 1, one value per
--     fold; NULL without cross-validation.
--   prediction_accuracy_fit: Prediction accuracy on the fitted trials, one value per fold; NULL
--     without cross-validation.
--   prediction_accuracy_test_bias_only: Accuracy on held-out trials of always predicting the side
--     chosen more often, one value per fold; NULL without cross-validation.
--   analysis_time: When the analysis was done.
--   S3_location: The result folder.
--   CO_asset_id: The addresses of the analysed data assets; NULL for the prototype.
--   analysis_tag: The framework's tag of the analysis, else its version; NULL for the prototype.
--   pipeline_source: The pipeline that wrote the record, `aind analysis framework` or `han's
--     analysis pipeline`.
WITH gathered AS (
    -- Without this, DESCRIBE would not show the names in capitals.
    SELECT * FROM mle_fits
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
    prediction_accuracy_test,
    prediction_accuracy_fit,
    prediction_accuracy_test_bias_only,
    finished_at AS analysis_time,
    result_location AS "S3_location",
    CASE WHEN pipeline_format = 'framework' THEN coalesce(input_urls, []::VARCHAR[]) END
        AS "CO_asset_id",
    CASE WHEN pipeline_format = 'framework' THEN analysis_version END AS analysis_tag,
    CASE pipeline_format
        WHEN 'framework' THEN 'aind analysis framework'
        WHEN 'prototype' THEN 'han''s analysis pipeline'
    END AS pipeline_source
FROM gathered
