-- Every successful MLE fit says which session and agent it is of, and how likely the choices were.
-- A session can only be known where the NWB name holds one, or subject and date are given. Other
-- analyses need none of the three.
-- A warning: it concerns the documents, not the tables derived from them.
SELECT
    source_collection,
    record_id,
    process_index,
    nwb_name,
    subject_id,
    session_date,
    session_key,
    agent_alias,
    log_likelihood
FROM analyses
WHERE
    analysis_name = 'MLE fitting'
    AND outcome = 'success'
    AND (
        agent_alias IS NULL
        OR log_likelihood IS NULL
        OR (
            session_key IS NULL
            AND (
                session_key(nwb_name) IS NOT NULL
                OR (subject_id IS NOT NULL AND session_date IS NOT NULL)
            )
        )
    )
