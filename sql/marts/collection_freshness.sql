-- One row per collection and day (UTC) on which documents arrived, changed or were deleted.
-- The lag is the time from the end of an analysis to when its record was first seen. It covers the
-- records first seen on that day that have both times.
--
--   day: The day, in UTC.
--   n_arrived: Documents seen for the first time, or again after a deletion.
--   n_changed: Documents whose content changed.
--   n_deleted: Documents that were deleted.
--   n_live: Documents in the collection at the end of the day.
--   n_lags: Records with a lag.
--   median_lag_hours: Median lag of these records [hours].
--   max_lag_hours: Longest lag of these records [hours].
WITH versions AS (
    SELECT
        source_collection,
        (extracted_at AT TIME ZONE 'UTC')::DATE AS day,
        operation,
        lag(operation) OVER (
            PARTITION BY source_collection, record_id
            ORDER BY batch_id
        ) AS previous_operation
    FROM documents
),
changes AS (
    SELECT
        source_collection,
        day,
        count(*) FILTER (
            WHERE operation = 'upsert' AND previous_operation IS DISTINCT FROM 'upsert'
        ) AS n_arrived,
        count(*) FILTER (
            WHERE operation = 'upsert' AND previous_operation = 'upsert'
        ) AS n_changed,
        count(*) FILTER (
            WHERE operation = 'delete' AND previous_operation = 'upsert'
        ) AS n_deleted
    FROM versions
    GROUP BY source_collection, day
),
lags AS (
    SELECT
        source_collection,
        (first_seen_at AT TIME ZONE 'UTC')::DATE AS day,
        count(*) AS n_lags,
        median(epoch(first_seen_at - finished_at) / 3600) AS median_lag_hours,
        max(epoch(first_seen_at - finished_at) / 3600) AS max_lag_hours
    FROM analyses
    WHERE finished_at IS NOT NULL
    GROUP BY source_collection, day
)
SELECT
    changes.source_collection,
    changes.day,
    changes.n_arrived,
    changes.n_changed,
    changes.n_deleted,
    (
        sum(changes.n_arrived - changes.n_deleted) OVER (
            PARTITION BY changes.source_collection
            ORDER BY changes.day
        )
    )::BIGINT AS n_live,
    coalesce(lags.n_lags, 0) AS n_lags,
    lags.median_lag_hours,
    lags.max_lag_hours
FROM changes
LEFT JOIN lags USING (source_collection, day)
