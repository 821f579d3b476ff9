-- Is my mouse's latest fit in, and how good is it? The newest fit of each session and agent.
SELECT session_key, agent_alias, n_trials, lpt_aic, prediction_accuracy, finished_at
FROM latest_analyses
WHERE subject_id = '652324' AND analysis_name = 'MLE fitting'
ORDER BY session_date DESC, lpt_aic DESC
