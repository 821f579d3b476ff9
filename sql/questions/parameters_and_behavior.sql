-- Do mice that forage well learn fast? Sessions with a parameter of their newest fit.
SELECT session_key, foraging_eff, finished_rate, value AS learn_rate_rew
FROM sessions
INNER JOIN latest_analyses USING (session_key)
INNER JOIN fit_parameters USING (source_collection, record_id, process_index)
WHERE agent_alias = 'QLearning_L2F1_CK1_softmax' AND parameter = 'learn_rate_rew'
    AND foraging_eff IS NOT NULL
ORDER BY foraging_eff DESC
