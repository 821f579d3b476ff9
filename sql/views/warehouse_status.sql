-- One row per warehouse: what it was built from, and how fresh it is. For the head of a dashboard.
-- warehouse_info has the same facts as rows of names and values.
--
--   built_at: When the warehouse was built.
--   as_of: The time whose documents it shows; NULL if it shows the newest.
--   lake: The lake it was built from.
--   built_by: The versions that built it.
--   collections: Number of collections.
--   live_documents: Documents in the sources at the last extraction.
--   successful_analyses: Analyses with the outcome success.
--   rejected_documents: Documents without a row in analyses.
--   newest_finished_at: When the newest analysis was done.
--   newest_extracted_at: When the newest version of a document was extracted.
--   least_recent_pass_at: When the least recently read collection was last read.
--   newest_session_date: The newest day in the session table.
SELECT
    facts.built_at,
    facts.as_of,
    facts.lake,
    facts.built_by,
    counts.*,
    (SELECT max(extracted_at) FROM documents) AS newest_extracted_at,
    passes.least_recent_pass_at,
    (SELECT max(session_date) FROM sessions) AS newest_session_date
FROM (
    SELECT
        max(value) FILTER (name = 'built_at')::TIMESTAMPTZ AS built_at,
        max(value) FILTER (name = 'as_of')::TIMESTAMPTZ AS as_of,
        max(value) FILTER (name = 'lake') AS lake,
        max(value) FILTER (name = 'built_by') AS built_by
    FROM warehouse_info
) AS facts
CROSS JOIN (
    SELECT
        count(*) AS collections,
        coalesce(sum(live_documents), 0)::BIGINT AS live_documents,
        coalesce(sum(successful_analyses), 0)::BIGINT AS successful_analyses,
        coalesce(sum(rejected_documents), 0)::BIGINT AS rejected_documents,
        max(newest_finished_at) AS newest_finished_at
    FROM collections
) AS counts
CROSS JOIN (
    SELECT min(greatest(last_new_pass_at, last_full_pass_at)) AS least_recent_pass_at
    FROM collections
) AS passes
