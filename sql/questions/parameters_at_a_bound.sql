-- Which fitted parameters end at a bound of the fit, and how often?
SELECT agent_alias, parameter, count(*) AS fits, round(avg(at_bound::INTEGER), 3) AS share_at_bound
FROM fit_parameters
INNER JOIN latest_analyses USING (source_collection, record_id, process_index)
WHERE is_fitted AND at_bound IS NOT NULL
GROUP BY agent_alias, parameter
HAVING count(*) FILTER (at_bound) > 0
ORDER BY share_at_bound DESC, agent_alias, parameter
