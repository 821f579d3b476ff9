-- How does a subject's learning rate change over its sessions?
SELECT session_number, session_date, value, change, at_bound
FROM parameter_trajectories
WHERE subject_id = '652324'
    AND agent_alias = 'QLearning_L2F1_CK1_softmax'
    AND parameter = 'learn_rate_rew'
ORDER BY session_number
