-- Which agent wins most sessions by AIC? Only sessions whose fits are to the same trials.
SELECT agent_alias, count(*) AS sessions_won
FROM best_models
WHERE criterion = 'aic' AND n_agents > 1 AND NOT n_trials_differ
GROUP BY agent_alias
ORDER BY sessions_won DESC, agent_alias
