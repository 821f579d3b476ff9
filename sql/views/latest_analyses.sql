-- One row per session, analysis and agent: the newest successful analysis, whichever pipeline and
-- collection it came from.
-- The newest has the latest finished_at, then the latest changed_at; an analysis without
-- finished_at comes last. An analysis without a session_key, an analysis_name or an agent_alias, as
-- in other projects' records, is always included: nothing shows that another one replaces it.
WITH ranked AS (
    SELECT
        source_collection,
        record_id,
        process_index,
        row_number() OVER (
            PARTITION BY
                session_key,
                analysis_name,
                agent_alias,
                -- NULL for analyses that can replace each other, else the key of the record.
                CASE
                    WHEN session_key IS NULL OR analysis_name IS NULL OR agent_alias IS NULL
                        THEN [source_collection, record_id, process_index::VARCHAR]
                END
            ORDER BY
                finished_at DESC NULLS LAST,
                changed_at DESC,
                source_collection,
                record_id,
                process_index
        ) AS age_rank
    FROM analyses
    WHERE outcome = 'success'
)
SELECT analyses.*
FROM analyses
SEMI JOIN (SELECT * FROM ranked WHERE age_rank = 1) AS newest
    USING (source_collection, record_id, process_index)
