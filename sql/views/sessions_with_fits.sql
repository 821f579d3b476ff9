-- One row per session of the session table: every column of it, and how far it is fitted.
-- Sessions without a fit are included, with n_fits 0. Sessions that were analysed but are not in
-- the session table are only in analyses. Fits are counted over all pipelines and collections.
--
--   n_fits: Successful fits of the session, re-fits included.
--   n_fitted_agents: Different agents among these.
--   n_skipped: Analyses of the session that were skipped.
--   n_failed: Analyses of the session that failed.
--   newest_fit_at: When the newest successful fit was done.
--   best_agent_by_aic: The best agent by AIC, as in best_models; NULL if there is none.
--   best_agent_by_bic: The best agent by BIC, as in best_models; NULL if there is none.
--   best_agent_by_cv_accuracy: The best agent by cross-validated accuracy, as in best_models; NULL
--     if there is none.
WITH analysed AS (
    SELECT
        session_key,
        count(*) FILTER (outcome = 'success' AND agent_alias IS NOT NULL) AS n_fits,
        count(DISTINCT agent_alias) FILTER (outcome = 'success') AS n_fitted_agents,
        count(*) FILTER (outcome = 'skipped') AS n_skipped,
        count(*) FILTER (outcome = 'failed') AS n_failed,
        max(finished_at) FILTER (outcome = 'success' AND agent_alias IS NOT NULL) AS newest_fit_at
    FROM analyses
    WHERE session_key IS NOT NULL
    GROUP BY session_key
),
best AS (
    SELECT
        session_key,
        max(agent_alias) FILTER (criterion = 'aic') AS best_agent_by_aic,
        max(agent_alias) FILTER (criterion = 'bic') AS best_agent_by_bic,
        max(agent_alias) FILTER (criterion = 'cv_accuracy') AS best_agent_by_cv_accuracy
    FROM best_models
    GROUP BY session_key
)
SELECT
    sessions.*,
    coalesce(analysed.n_fits, 0) AS n_fits,
    coalesce(analysed.n_fitted_agents, 0) AS n_fitted_agents,
    coalesce(analysed.n_skipped, 0) AS n_skipped,
    coalesce(analysed.n_failed, 0) AS n_failed,
    analysed.newest_fit_at,
    best.best_agent_by_aic,
    best.best_agent_by_bic,
    best.best_agent_by_cv_accuracy
FROM sessions
LEFT JOIN analysed USING (session_key)
LEFT JOIN best USING (session_key)
