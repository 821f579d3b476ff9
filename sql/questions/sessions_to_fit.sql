-- Which sessions of the session table have no successful fit?
SELECT session_key, subject_id, session_date, finished_trials, n_skipped, n_failed
FROM sessions_with_fits
WHERE n_fits = 0
ORDER BY session_date DESC
