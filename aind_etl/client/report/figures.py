"""The report's figures: title, caption, query on the marts, and chart of each.

Every query aggregates inside DuckDB and returns a bounded number of rows, however many analyses
there are.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aind_etl.client.report import charts


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure of the report."""

    # The id of its section, and the name of its data.
    name: str
    title: str
    caption: str
    # The SELECT whose rows it shows.
    query: str
    # The text shown if there are no rows.
    empty: str
    # Returns the Vega-Lite specification that draws the rows; without one they are a table.
    chart: Callable[[], dict[str, Any]] | None = None
    # Values of the rows' column ``criterion`` to choose from, each with its text.
    criteria: tuple[tuple[str, str], ...] = ()
    # Whether it takes the page's whole width.
    wide: bool = False


_CROSS_VALIDATED = """
        FROM model_comparison
        INNER JOIN analyses USING (source_collection, record_id, process_index)
        WHERE cv_accuracy IS NOT NULL AND isfinite(prediction_accuracy_test_bias_only_mean)
"""

FIGURES = (
    Figure(
        "best",
        "Which agent wins",
        "The sessions in which an agent is the best by the chosen criterion, out of those in which "
        "it was fitted. Agents without such a session are not shown. Sessions with a single agent "
        "are left out; for AIC and BIC, so are sessions whose fits are not to the same trials. "
        "Marts: best_models, model_comparison.",
        """
        SELECT
            criterion,
            scores.agent_alias,
            count(*) FILTER (scores.agent_alias = best.agent_alias) AS sessions,
            count(*) AS compared
        FROM best_models AS best
        INNER JOIN (
            UNPIVOT model_comparison ON aic, bic, lpt, lpt_aic, lpt_bic, cv_accuracy
            INTO NAME criterion VALUE score
        ) AS scores USING (criterion, session_key)
        WHERE best.n_agents > 1 AND NOT (criterion IN ('aic', 'bic') AND best.n_trials_differ)
        GROUP BY criterion, scores.agent_alias
        HAVING sessions > 0
        ORDER BY criterion, sessions DESC, agent_alias
        """,
        "No session has been fitted by more than one agent yet.",
        charts.best,
        (
            ("aic", "AIC"),
            ("bic", "BIC"),
            ("lpt_aic", "Likelihood per trial (AIC)"),
            ("cv_accuracy", "Cross-validated accuracy"),
        ),
    ),
    Figure(
        "accuracy_sessions",
        "Session by session",
        "Each circle is a group of fits with the same accuracies, rounded to 0.02; its area is "
        "their number. Above the diagonal, the model predicts better than the bias alone. Mart: "
        "model_comparison, with analyses.",
        f"""
        SELECT
            round(prediction_accuracy_test_bias_only_mean * 50) / 50 AS bias_only,
            round(cv_accuracy * 50) / 50 AS accuracy,
            count(*) AS fits
        {_CROSS_VALIDATED}
        GROUP BY ALL
        ORDER BY ALL
        """,
        "No fit has been cross-validated yet.",
        charts.accuracy_sessions,
    ),
    Figure(
        "delta_aic",
        "How far behind the others are",
        "ΔAIC from the session's best agent: the dot is the median over sessions, the thick bar "
        "the middle half, the thin line from the 5th to the 95th percentile. 0 is the best; a "
        "difference above 10 leaves an agent next to no support. Only fits to the same trials. "
        "Mart: model_comparison.",
        """
        SELECT
            agent_alias,
            count(delta_aic) AS sessions,
            quantile_cont(delta_aic, 0.05) AS p5,
            quantile_cont(delta_aic, 0.25) AS p25,
            median(delta_aic) AS median,
            quantile_cont(delta_aic, 0.75) AS p75,
            quantile_cont(delta_aic, 0.95) AS p95
        FROM model_comparison
        -- AIC compares fits to the same trials only, and a session with one agent has no winner.
        WHERE n_agents > 1 AND NOT n_trials_differ AND delta_aic IS NOT NULL
        GROUP BY agent_alias
        ORDER BY median, agent_alias
        """,
        "No session has been fitted by more than one agent to the same trials yet.",
        charts.delta_aic,
    ),
    Figure(
        "accuracy",
        "Better than the bias?",
        "Medians over sessions of the cross-validated prediction accuracy (filled), and of that of "
        "an agent that knows only the side bias (open). The line between them is what the model "
        "adds. Only fits with both. Mart: model_comparison, with analyses.",
        f"""
        SELECT
            model_comparison.agent_alias,
            count(*) AS sessions,
            median(cv_accuracy) AS accuracy,
            median(prediction_accuracy_test_bias_only_mean) AS bias_only
        {_CROSS_VALIDATED}
        GROUP BY ALL
        ORDER BY accuracy DESC, agent_alias
        """,
        "No fit has been cross-validated yet.",
        charts.accuracy,
    ),
    Figure(
        "coverage",
        "What is fitted, and what is missing",
        "The share of each month's sessions that have a successful fit of the agent. An empty "
        "cell is a month without fits of the agent. Mart: fit_coverage.",
        """
        SELECT
            strftime(session_month, '%Y-%m') AS month,
            agent_alias,
            sum(COLUMNS('n_(sessions|fitted|skipped|failed|unknown|missing)'))::BIGINT AS '\\1',
            sum(n_fitted) / sum(n_sessions) AS share_fitted,
            CASE
                WHEN share_fitted = 0 THEN 'none'
                WHEN share_fitted < 0.25 THEN 'below 25%'
                WHEN share_fitted < 0.5 THEN '25–50%'
                WHEN share_fitted < 0.75 THEN '50–75%'
                WHEN share_fitted < 1 THEN '75–99%'
                ELSE 'all'
            END AS band
        FROM fit_coverage
        GROUP BY session_month, agent_alias
        ORDER BY session_month, agent_alias
        """,
        "No session has been fitted yet.",
        charts.coverage,
        wide=True,
    ),
    Figure(
        "agreement",
        "Do the two pipelines agree?",
        "Sessions and agents that both pipelines fitted, by how far apart their log-likelihoods "
        "are. Where the numbers of trials differ, the pipelines did not fit the same data. Mart: "
        "pipeline_agreement.",
        """
        WITH sized AS (
            SELECT n_trials_difference, abs(log_likelihood_difference) AS size
            FROM pipeline_agreement
        )
        SELECT
            CASE
                WHEN n_trials_difference <> 0 THEN 'other trials'
                WHEN size IS NULL THEN 'not comparable'
                WHEN size < 1e-6 THEN 'equal'
                WHEN size < 0.01 THEN 'below 0.01'
                WHEN size < 1 THEN '0.01 to 1'
                WHEN size < 10 THEN '1 to 10'
                ELSE '10 and more'
            END AS difference,
            count(*) AS pairs
        FROM sized
        GROUP BY difference
        ORDER BY pairs DESC, difference
        """,
        "No session has been fitted by both pipelines yet.",
        charts.agreement,
    ),
    Figure(
        "disagreements",
        "The largest differences",
        "The pairs of fits whose log-likelihoods differ most (framework − prototype), and the "
        "parameter that differs most. Mart: pipeline_agreement.",
        """
        SELECT
            session_key AS "session",
            agent_alias AS "agent",
            round(log_likelihood_difference, 3) AS "log-likelihood",
            n_trials_difference AS "trials",
            largest_difference_parameter AS "parameter",
            round(largest_parameter_difference, 4) AS "by"
        FROM pipeline_agreement
        WHERE
            n_trials_difference <> 0
            OR log_likelihood_difference <> 0
            OR largest_parameter_difference > 0
        ORDER BY abs(log_likelihood_difference) DESC NULLS LAST, session_key, agent_alias
        LIMIT 8
        """,
        "None: no pair of fits differs.",
    ),
    Figure(
        "arrivals",
        "What arrived when",
        "Documents that arrived for the first time on each of the latest 180 days with changes, by "
        "collection. The first day is that of the first load. Mart: collection_freshness.",
        """
        SELECT
            day,
            source_collection AS collection,
            n_arrived AS arrived,
            n_changed AS changed,
            n_deleted AS deleted
        FROM collection_freshness
        QUALIFY dense_rank() OVER (ORDER BY day DESC) <= 180
        ORDER BY day, collection
        """,
        "Nothing has arrived yet.",
        charts.arrivals,
    ),
    Figure(
        "lag",
        "How long results take to arrive",
        "The time from the end of an analysis until its record was first extracted: the median of "
        "each day and collection. It is long for records of the first load. Mart: "
        "collection_freshness.",
        """
        SELECT
            day,
            source_collection AS collection,
            n_lags AS analyses,
            median_lag_hours,
            max_lag_hours
        FROM collection_freshness
        WHERE n_lags > 0
        QUALIFY dense_rank() OVER (ORDER BY day DESC) <= 180
        ORDER BY day, collection
        """,
        "No analysis with an end time has arrived yet.",
        charts.lag,
    ),
    Figure(
        "rejected_values",
        "Values that did not fit",
        "Values of documents that do not fit their column, which is NULL; the rest of a document "
        "is in the tables. They are retried whenever they or the code change. Table: "
        "rejected_values.",
        """
        SELECT
            source_collection AS "collection",
            regexp_replace(path, '\\[[0-9]+\\]', '[]', 'g') AS "path",
            reason,
            count(*) AS "values",
            min(value) AS "for example",
            min(expected) AS "expected",
            min(record_id) AS "record"
        FROM rejected_values
        GROUP BY ALL
        ORDER BY "values" DESC, "collection", "path", reason
        LIMIT 50
        """,
        "None: every value of the documents fits its column.",
        wide=True,
    ),
    Figure(
        "rejected",
        "Documents that did not fit",
        "Documents of the sources that are not in the tables, with the reason. They are retried "
        "whenever they or the code change. Table: rejected_documents.",
        """
        SELECT
            source_collection AS "collection",
            reason,
            count(*) AS "documents",
            min(message) AS "for example",
            min(record_id) AS "record"
        FROM rejected_documents
        GROUP BY source_collection, reason
        ORDER BY "documents" DESC, "collection", reason
        LIMIT 50
        """,
        "None: every document of the sources is in the tables.",
        wide=True,
    ),
)
"""The figures in the order of the page."""
