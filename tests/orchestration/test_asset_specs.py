"""Every asset's specification, as a file: what changes of it is seen in a review.

After a change that is meant: ``AIND_ETL_WRITE_SNAPSHOT=1 pytest tests/test_asset_specs.py``.
"""

import json
import os
from pathlib import Path

from aind_etl.orchestration.definitions import build_defs

SNAPSHOT = Path(__file__).parent / "asset_specs.json"


def specs():
    graph = build_defs().resolve_asset_graph()
    nodes = {key.to_user_string(): graph.get(key) for key in sorted(graph.get_all_asset_keys())}
    return {
        name: {
            "group": node.group_name,
            "upstream": sorted(key.to_user_string() for key in node.parent_keys),
            "kinds": sorted(
                tag.removeprefix("dagster/kind/")
                for tag in node.tags
                if tag.startswith("dagster/kind/")
            ),
            "owners": list(node.owners),
            "partitions": getattr(node.partitions_def, "name", None),
            "has a code version": node.code_version is not None,
            "has a freshness policy": node.freshness_policy is not None,
            "checks": sorted(key.name for key in node.check_keys),
        }
        for name, node in nodes.items()
    }


def test_the_assets_are_those_that_were_reviewed():
    found = specs()
    if os.environ.get("AIND_ETL_WRITE_SNAPSHOT"):
        SNAPSHOT.write_text(json.dumps(found, indent=1) + "\n")
    assert found == json.loads(SNAPSHOT.read_text())
