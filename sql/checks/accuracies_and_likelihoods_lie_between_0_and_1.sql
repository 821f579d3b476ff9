-- Accuracies and likelihoods per trial, of fits and of their folds, lie between 0 and 1.
-- A warning: it concerns the documents, not the tables derived from them.
WITH of_fits AS (
    UNPIVOT (
        SELECT
            source_collection,
            record_id,
            process_index,
            prediction_accuracy,
            prediction_accuracy_test_mean,
            prediction_accuracy_fit_mean,
            prediction_accuracy_test_bias_only_mean,
            lpt,
            lpt_aic,
            lpt_bic,
            lpt_test_mean,
            lpt_fit_mean
        FROM analyses
    )
    ON
        prediction_accuracy,
        prediction_accuracy_test_mean,
        prediction_accuracy_fit_mean,
        prediction_accuracy_test_bias_only_mean,
        lpt,
        lpt_aic,
        lpt_bic,
        lpt_test_mean,
        lpt_fit_mean
    INTO NAME measure VALUE value
),
of_folds AS (
    UNPIVOT (
        SELECT
            source_collection,
            record_id,
            process_index,
            fold,
            prediction_accuracy_test,
            prediction_accuracy_fit,
            prediction_accuracy_test_bias_only,
            lpt_test,
            lpt_fit
        FROM cross_validation
    )
    ON
        prediction_accuracy_test,
        prediction_accuracy_fit,
        prediction_accuracy_test_bias_only,
        lpt_test,
        lpt_fit
    INTO NAME measure VALUE value
)
SELECT source_collection, record_id, process_index, NULL::SMALLINT AS fold, measure, value
FROM of_fits
WHERE NOT value BETWEEN 0 AND 1
UNION ALL
SELECT source_collection, record_id, process_index, fold, measure, value
FROM of_folds
WHERE NOT value BETWEEN 0 AND 1
