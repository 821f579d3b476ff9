-- One row per analysis, with the contents of its result folder: the addresses of its result file
-- and figure, how many files there are, and whether its trials were read.
--
--   result_folder_status: Status of the folder at `result_location`, as in result_folders; NULL if
--     it was not checked.
--   n_result_files: Files in the result folder.
--   result_size_bytes: Total size of these files [bytes].
--   result_checked_at: When the result folder was last checked.
--   result_json_url: Address of the file with the trial-by-trial variables; the most complete one
--     if there are several.
--   figure_url: Address of the figure of the fitted session.
--   has_trials: Whether the result file was read, so that `trials` has this analysis.
--   q_value_spread: As in analyses_latents.
--   result_rejected_because: Why the result file was rejected, as `reason` of rejected_results.
SELECT
    analyses.*,
    result_folders.status AS result_folder_status,
    result_folders.n_files AS n_result_files,
    result_folders.size_bytes AS result_size_bytes,
    result_folders.checked_at AS result_checked_at,
    files.result_json_url,
    files.figure_url,
    analyses_latents.n_trials IS NOT NULL AS has_trials,
    analyses_latents.q_value_spread,
    rejected_results.reason AS result_rejected_because
FROM analyses
LEFT JOIN result_folders USING (source_collection, record_id, process_index)
LEFT JOIN (
    SELECT
        source_collection,
        record_id,
        process_index,
        coalesce(
            min(CASE WHEN file_name = 'original_results_mle_fitting.json' THEN url END),
            min(CASE WHEN file_name = 'docDB_mle_fitting.json' THEN url END),
            min(CASE WHEN file_name = 'docDB_record.json' THEN url END)
        ) AS result_json_url,
        min(CASE WHEN file_name = 'fitted_session.png' THEN url END) AS figure_url
    FROM result_files
    GROUP BY source_collection, record_id, process_index
) AS files USING (source_collection, record_id, process_index)
LEFT JOIN analyses_latents USING (source_collection, record_id, process_index)
LEFT JOIN rejected_results USING (source_collection, record_id, process_index)
