"""Commands that tests run, their environments, and queries to the Dagster UI."""

import json
import os
import subprocess
import urllib.request
from typing import Any


def execute(
    *command: object, check: bool = False, **options: Any
) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end; ``options`` are those of :func:`subprocess.run`."""
    words = [str(word) for word in command]
    return subprocess.run(words, capture_output=True, text=True, check=check, **options)


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
    """Return the data of a GraphQL query to the Dagster UI; None if it is not served yet."""
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
