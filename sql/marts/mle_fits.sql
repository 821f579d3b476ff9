-- One row per MLE fit of either pipeline, with its parameters, folds and inputs as lists.
-- mle_fitting and get_mle_model_fitting read this table. It is sorted by subject and date, so that
-- the fits of a subject are found quickly. Exports leave it out by default: analyses,
-- fit_parameters, cross_validation and input_assets have the same values without lists.
--
--   input_urls: The addresses of the analysed data assets, in order.
--   parameter_names: The agent's parameters, sorted by name.
--   parameter_values: Their values, in the same order.
--   prediction_accuracy_test: Prediction accuracy on held-out trials, from 0 to 1, one value per
--     fold; NULL if no fold has one.
--   prediction_accuracy_fit: Prediction accuracy on the fitted trials, one value per fold; NULL if
--     no fold has one.
--   prediction_accuracy_test_bias_only: Accuracy on held-out trials of always predicting the side
--     chosen more often, one value per fold; NULL if no fold has one.
WITH inputs AS (
    SELECT
        source_collection,
        record_id,
        process_index,
        list(url ORDER BY position) AS input_urls
    FROM input_assets
    GROUP BY source_collection, record_id, process_index
),
parameters AS (
    SELECT
        source_collection,
        record_id,
        process_index,
        list(parameter ORDER BY parameter) AS parameter_names,
        list(value ORDER BY parameter) AS parameter_values
    FROM fit_parameters
    GROUP BY source_collection, record_id, process_index
),
folds AS (
    SELECT
        source_collection,
        record_id,
        process_index,
        CASE
            WHEN count(prediction_accuracy_test) > 0
                THEN list(prediction_accuracy_test ORDER BY fold)
        END AS prediction_accuracy_test,
        CASE
            WHEN count(prediction_accuracy_fit) > 0
                THEN list(prediction_accuracy_fit ORDER BY fold)
        END AS prediction_accuracy_fit,
        CASE
            WHEN count(prediction_accuracy_test_bias_only) > 0
                THEN list(prediction_accuracy_test_bias_only ORDER BY fold)
        END AS prediction_accuracy_test_bias_only
    FROM cross_validation
    GROUP BY source_collection, record_id, process_index
)
SELECT
    analyses.source_collection,
    analyses.record_id,
    analyses.process_index,
    analyses.pipeline_format,
    analyses.subject_id,
    analyses.session_date,
    analyses.nwb_name,
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
    analyses.changed_at,
    analyses.result_location,
    analyses.analysis_version,
    inputs.input_urls,
    parameters.parameter_names,
    parameters.parameter_values,
    folds.prediction_accuracy_test,
    folds.prediction_accuracy_fit,
    folds.prediction_accuracy_test_bias_only
FROM analyses
LEFT JOIN inputs USING (source_collection, record_id, process_index)
LEFT JOIN parameters USING (source_collection, record_id, process_index)
LEFT JOIN folds USING (source_collection, record_id, process_index)
WHERE analyses.analysis_name = 'MLE fitting'
ORDER BY
    analyses.subject_id NULLS LAST,
    analyses.session_date NULLS LAST,
    analyses.source_collection,
    analyses.record_id,
    analyses.process_index
