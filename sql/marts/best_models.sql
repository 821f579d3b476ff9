-- One row per session and criterion: the agent that is best by it.
-- The criteria are aic and bic (lower is better), lpt, lpt_aic, lpt_bic and cv_accuracy (higher is
-- better). Ties go to the agent with fewer parameters, then to the first by name. Compare aic and
-- bic only in sessions with n_trials_differ false. Count the agents with SELECT criterion,
-- agent_alias, count(*) … GROUP BY ALL; join sessions on session_key to count by curriculum or
-- stage. n_sessions_won is that count over all sessions.
--
--   criterion: `aic`, `bic`, `lpt`, `lpt_aic`, `lpt_bic` or `cv_accuracy`.
--   agent_alias: The best agent.
--   value: The best agent's value of the criterion.
--   second_agent_alias: The second best agent.
--   second_value: The second best agent's value of the criterion.
--   margin: Absolute difference between the best and the second best value; 0 for a tie, NULL if
--     one agent was fitted.
--   n_agents: Agents compared.
--   n_trials_differ: Whether the session's fits have different numbers of trials.
--   n_sessions_won: Sessions of all subjects in which this agent is the best by this criterion.
WITH scores AS (
    UNPIVOT (
        SELECT
            session_key,
            subject_id,
            session_date,
            agent_alias,
            k_model,
            n_trials_differ,
            aic,
            bic,
            lpt,
            lpt_aic,
            lpt_bic,
            cv_accuracy
        FROM model_comparison
    )
    ON aic, bic, lpt, lpt_aic, lpt_bic, cv_accuracy
    INTO NAME criterion VALUE value
),
costs AS (
    SELECT
        *,
        CASE WHEN criterion IN ('aic', 'bic') THEN value ELSE -value END AS cost
    FROM scores
),
ranked AS (
    SELECT
        *,
        row_number() OVER by_cost AS cost_rank,
        lead(agent_alias) OVER by_cost AS second_agent_alias,
        lead(value) OVER by_cost AS second_value,
        lead(cost) OVER by_cost - cost AS margin,
        count(*) OVER (PARTITION BY session_key, criterion) AS n_agents
    FROM costs
    WINDOW by_cost AS (
        PARTITION BY session_key, criterion
        ORDER BY cost, k_model NULLS LAST, agent_alias
    )
)
SELECT
    session_key,
    criterion,
    subject_id,
    session_date,
    agent_alias,
    value,
    second_agent_alias,
    second_value,
    margin,
    n_agents,
    n_trials_differ,
    count(*) OVER (PARTITION BY criterion, agent_alias) AS n_sessions_won
FROM ranked
WHERE cost_rank = 1
