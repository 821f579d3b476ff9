-- Why does a session have no fit? The writer's status, and the number of rejected values.
SELECT session_key, agent_alias, outcome, status, n_rejected_values
FROM analyses
WHERE subject_id = '652229' AND outcome <> 'success'
ORDER BY session_key, agent_alias
