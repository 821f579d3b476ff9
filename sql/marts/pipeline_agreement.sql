-- One row per session and agent fitted successfully by both pipelines: how far the fits differ.
-- The newest fit of each pipeline is compared. Differences are framework − prototype. If n_trials
-- differ, the pipelines fitted different trials, and likelihoods and AIC differ for that reason.
--
--   prototype_collection: `source_collection` of the prototype's fit.
--   prototype_record_id: `record_id` of the prototype's fit.
--   prototype_process_index: `process_index` of the prototype's fit.
--   framework_collection: `source_collection` of the framework's fit.
--   framework_record_id: `record_id` of the framework's fit.
--   framework_process_index: `process_index` of the framework's fit.
--   prototype_n_trials: Trials fitted by the prototype.
--   framework_n_trials: Trials fitted by the framework.
--   n_trials_difference: Trials, framework minus prototype.
--   prototype_log_likelihood: Log-likelihood of the prototype's fit.
--   framework_log_likelihood: Log-likelihood of the framework's fit.
--   log_likelihood_difference: Log-likelihood, framework minus prototype.
--   prototype_aic: AIC of the prototype's fit.
--   framework_aic: AIC of the framework's fit.
--   aic_difference: AIC, framework minus prototype.
--   n_parameters: Parameters that both fits have.
--   largest_parameter_difference: Largest absolute difference of a parameter's value between the
--     fits.
--   largest_difference_parameter: The parameter that differs most.
WITH newest_fits AS (
    SELECT *
    FROM analyses
    WHERE
        analysis_name = 'MLE fitting'
        AND outcome = 'success'
        AND session_key IS NOT NULL
        AND agent_alias IS NOT NULL
    QUALIFY row_number() OVER (
        PARTITION BY session_key, agent_alias, pipeline_format
        ORDER BY
            finished_at DESC NULLS LAST,
            changed_at DESC,
            source_collection,
            record_id,
            process_index
    ) = 1
),
pairs AS (
    SELECT
        session_key,
        agent_alias,
        coalesce(framework.subject_id, prototype.subject_id) AS subject_id,
        coalesce(framework.session_date, prototype.session_date) AS session_date,
        prototype.source_collection AS prototype_collection,
        prototype.record_id AS prototype_record_id,
        prototype.process_index AS prototype_process_index,
        framework.source_collection AS framework_collection,
        framework.record_id AS framework_record_id,
        framework.process_index AS framework_process_index,
        prototype.n_trials AS prototype_n_trials,
        framework.n_trials AS framework_n_trials,
        framework.n_trials - prototype.n_trials AS n_trials_difference,
        prototype.log_likelihood AS prototype_log_likelihood,
        framework.log_likelihood AS framework_log_likelihood,
        framework.log_likelihood - prototype.log_likelihood AS log_likelihood_difference,
        prototype.aic AS prototype_aic,
        framework.aic AS framework_aic,
        framework.aic - prototype.aic AS aic_difference
    FROM (SELECT * FROM newest_fits WHERE pipeline_format = 'prototype') AS prototype
    INNER JOIN (SELECT * FROM newest_fits WHERE pipeline_format = 'framework') AS framework
        USING (session_key, agent_alias)
),
parameter_differences AS (
    SELECT
        pairs.session_key,
        pairs.agent_alias,
        prototype.parameter,
        abs(framework.value - prototype.value) AS difference
    FROM pairs
    INNER JOIN fit_parameters AS prototype
        ON
            pairs.prototype_collection = prototype.source_collection
            AND pairs.prototype_record_id = prototype.record_id
            AND pairs.prototype_process_index = prototype.process_index
    INNER JOIN fit_parameters AS framework
        ON
            pairs.framework_collection = framework.source_collection
            AND pairs.framework_record_id = framework.record_id
            AND pairs.framework_process_index = framework.process_index
            AND prototype.parameter = framework.parameter
    WHERE isfinite(framework.value - prototype.value)
),
largest_differences AS (
    SELECT
        session_key,
        agent_alias,
        count(*) AS n_parameters,
        max(difference) AS largest_parameter_difference,
        first(parameter ORDER BY difference DESC, parameter) AS largest_difference_parameter
    FROM parameter_differences
    GROUP BY session_key, agent_alias
)
SELECT
    pairs.*,
    coalesce(largest_differences.n_parameters, 0) AS n_parameters,
    largest_differences.largest_parameter_difference,
    largest_differences.largest_difference_parameter
FROM pairs
LEFT JOIN largest_differences USING (session_key, agent_alias)
