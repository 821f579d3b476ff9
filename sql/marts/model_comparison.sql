-- One row per session and agent: the newest successful MLE fit, compared with the session's other
-- agents.
-- delta_* is the difference from the session's best agent by that criterion: at least 0 for AIC and
-- BIC, where lower is better, at most 0 for the others. delta_*_to_reference is the difference from
-- the reference agent's fit of the session, NULL if there is none. Rank 1 is the best; ties go to
-- the agent with fewer parameters, then to the first by name. AIC and BIC compare only fits to the
-- same trials: leave out sessions with n_trials_differ.
--
--   n_agents: Agents with a successful fit of the session.
--   n_trials_differ: Whether the session's fits have different numbers of trials.
--   cv_accuracy: Mean prediction accuracy on held-out trials over the folds.
--   aic_rank: Rank by AIC among the session's agents; 1 is the best.
--   bic_rank: Rank by BIC among the session's agents; 1 is the best.
--   delta_aic: AIC minus that of the session's best agent.
--   delta_bic: BIC minus that of the session's best agent.
--   delta_lpt: Likelihood per trial minus that of the session's best agent.
--   delta_lpt_aic: Likelihood per trial with AIC's penalty minus that of the session's best agent.
--   delta_lpt_bic: Likelihood per trial with BIC's penalty minus that of the session's best agent.
--   delta_cv_accuracy: Cross-validated accuracy minus that of the session's best agent.
--   reference_agent: The agent of the delta_*_to_reference columns.
--   delta_aic_to_reference: AIC minus that of the reference agent.
--   delta_bic_to_reference: BIC minus that of the reference agent.
--   delta_lpt_to_reference: Likelihood per trial minus that of the reference agent.
--   delta_lpt_aic_to_reference: Likelihood per trial with AIC's penalty minus that of the reference
--     agent.
--   delta_lpt_bic_to_reference: Likelihood per trial with BIC's penalty minus that of the reference
--     agent.
--   delta_cv_accuracy_to_reference: Cross-validated accuracy minus that of the reference agent.
WITH reference AS (
    -- The plain reinforcement-learning model of the field (Hattori et al. 2019), without a choice
    -- kernel: it is fitted to nearly every session and most other agents add to it or take away.
    SELECT 'QLearning_L2F1_softmax' AS agent_alias
),
fits AS (
    SELECT
        session_key,
        agent_alias,
        source_collection,
        record_id,
        process_index,
        subject_id,
        session_date,
        n_trials,
        k_model,
        log_likelihood,
        -- NaN and infinities must not rank first.
        CASE WHEN isfinite(aic) THEN aic END AS aic,
        CASE WHEN isfinite(bic) THEN bic END AS bic,
        CASE WHEN isfinite(lpt) THEN lpt END AS lpt,
        CASE WHEN isfinite(lpt_aic) THEN lpt_aic END AS lpt_aic,
        CASE WHEN isfinite(lpt_bic) THEN lpt_bic END AS lpt_bic,
        CASE WHEN isfinite(prediction_accuracy_test_mean) THEN prediction_accuracy_test_mean END
            AS cv_accuracy
    FROM latest_analyses
    WHERE
        analysis_name = 'MLE fitting'
        AND session_key IS NOT NULL
        AND agent_alias IS NOT NULL
        AND log_likelihood IS NOT NULL
),
reference_fits AS (
    SELECT fits.*
    FROM fits
    INNER JOIN reference USING (agent_alias)
)
SELECT
    fits.session_key,
    fits.agent_alias,
    fits.subject_id,
    fits.session_date,
    fits.source_collection,
    fits.record_id,
    fits.process_index,
    count(*) OVER session AS n_agents,
    fits.n_trials,
    min(fits.n_trials) OVER session IS DISTINCT FROM max(fits.n_trials) OVER session
        AS n_trials_differ,
    fits.k_model,
    fits.log_likelihood,
    fits.aic,
    fits.bic,
    fits.lpt,
    fits.lpt_aic,
    fits.lpt_bic,
    fits.cv_accuracy,
    CASE
        WHEN fits.aic IS NOT NULL
            THEN row_number() OVER (
                PARTITION BY fits.session_key
                ORDER BY fits.aic NULLS LAST, fits.k_model NULLS LAST, fits.agent_alias
            )
    END AS aic_rank,
    CASE
        WHEN fits.bic IS NOT NULL
            THEN row_number() OVER (
                PARTITION BY fits.session_key
                ORDER BY fits.bic NULLS LAST, fits.k_model NULLS LAST, fits.agent_alias
            )
    END AS bic_rank,
    fits.aic - min(fits.aic) OVER session AS delta_aic,
    fits.bic - min(fits.bic) OVER session AS delta_bic,
    fits.lpt - max(fits.lpt) OVER session AS delta_lpt,
    fits.lpt_aic - max(fits.lpt_aic) OVER session AS delta_lpt_aic,
    fits.lpt_bic - max(fits.lpt_bic) OVER session AS delta_lpt_bic,
    fits.cv_accuracy - max(fits.cv_accuracy) OVER session AS delta_cv_accuracy,
    reference.agent_alias AS reference_agent,
    fits.aic - reference_fits.aic AS delta_aic_to_reference,
    fits.bic - reference_fits.bic AS delta_bic_to_reference,
    fits.lpt - reference_fits.lpt AS delta_lpt_to_reference,
    fits.lpt_aic - reference_fits.lpt_aic AS delta_lpt_aic_to_reference,
    fits.lpt_bic - reference_fits.lpt_bic AS delta_lpt_bic_to_reference,
    fits.cv_accuracy - reference_fits.cv_accuracy AS delta_cv_accuracy_to_reference
FROM fits
CROSS JOIN reference
LEFT JOIN reference_fits USING (session_key)
WINDOW session AS (PARTITION BY fits.session_key)
