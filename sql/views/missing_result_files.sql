-- One row per file that is missing from the result folder of a successful fit: `result_json`,
-- `figure`, or both if the folder is missing. Folders that were never checked are left out.
--
--   missing: `result_json` or `figure`.
--   folder_status: Status of the folder, as in result_folders.
--   message: Why the folder could not be listed.
--   location: The result folder.
--   checked_at: When the folder was last checked.
WITH files AS (
    SELECT
        source_collection,
        record_id,
        process_index,
        bool_or(
            file_name IN (
                'original_results_mle_fitting.json', 'docDB_mle_fitting.json', 'docDB_record.json'
            )
        ) AS has_result_json,
        bool_or(file_name = 'fitted_session.png') AS has_figure
    FROM result_files
    GROUP BY source_collection, record_id, process_index
)

SELECT
    analyses.source_collection,
    analyses.record_id,
    analyses.process_index,
    analyses.session_key,
    analyses.agent_alias,
    analyses.finished_at,
    expected.file AS missing,
    result_folders.status AS folder_status,
    result_folders.message,
    result_folders.location,
    result_folders.checked_at
FROM analyses
JOIN result_folders USING (source_collection, record_id, process_index)
LEFT JOIN files USING (source_collection, record_id, process_index)
CROSS JOIN (VALUES ('result_json'), ('figure')) AS expected (file)
WHERE
    analyses.outcome = 'success'
    AND analyses.n_trials IS NOT NULL
    AND NOT coalesce(
        CASE expected.file
            WHEN 'result_json' THEN files.has_result_json
            ELSE files.has_figure
        END,
        FALSE
    )
