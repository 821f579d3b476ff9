-- Does a choice kernel help? One agent's AIC minus another's, session by session.
SELECT one.session_key, one.aic - other.aic AS aic_difference
FROM model_comparison AS one
INNER JOIN model_comparison AS other USING (session_key)
WHERE one.agent_alias = 'QLearning_L2F1_CK1_softmax'
    AND other.agent_alias = 'QLearning_L2F1_softmax'
    AND one.n_trials = other.n_trials
ORDER BY aic_difference
