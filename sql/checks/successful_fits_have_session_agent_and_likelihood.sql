-- Every successful MLE fit names its session, agent and log-likelihood.
-- The session is only required if the NWB name contains one, or subject and date are given.
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
