"""Environments of commands that tests start, and queries to Dagster's page."""

import json
import os
import urllib.request
from typing import Any


def without_settings(**variables: str) -> dict[str, str]:
    """Return the environment without settings of aind-etl and Dagster, with some variables.

    The folder of results stays, which keeps tests from reading the public store.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AIND_ETL_", "DAGSTER_")) or name == "AIND_ETL_RESULTS_ROOT"
    }
    return kept | variables


def ask_page(address: str, query: str, **variables: Any) -> Any:
    """Return the data of a GraphQL query to Dagster's page; None if it is not served yet."""
    request = urllib.request.Request(
        f"{address}/graphql",
        json.dumps({"query": query, "variables": variables}).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            answer = json.load(response)
    except OSError:
        return None
    assert "errors" not in answer, answer
    return answer["data"]
