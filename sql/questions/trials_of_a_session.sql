-- What did the agent expect before each trial of a session, and what happened?
SELECT trial, choice, reward, q_left, q_right, choice_prob_left, rpe
FROM trials
INNER JOIN latest_analyses USING (source_collection, record_id, process_index)
WHERE session_key = '652324_2026-03-10_15-33-11' AND agent_alias = 'QLearning_L2F1_softmax'
ORDER BY trial
