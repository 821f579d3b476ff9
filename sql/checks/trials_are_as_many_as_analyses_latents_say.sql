-- Every analysis in analyses_latents has one row in trials per trial, and one for the state after
-- the last trial.
SELECT
    source_collection,
    record_id,
    process_index,
    analyses_latents.n_trials,
    count(trials.trial) AS n_rows
FROM analyses_latents
LEFT JOIN trials USING (source_collection, record_id, process_index)
GROUP BY source_collection, record_id, process_index, analyses_latents.n_trials
HAVING
    count(trials.trial) <> analyses_latents.n_trials + 1
    OR max(trials.trial) <> analyses_latents.n_trials
