"""Columns, their paths, views, marts, macros and assets do not change unnoticed.

After an intended change, ``make snapshot`` renews the file, and a review shows the difference.
"""

import json
import os
from pathlib import Path

from aind_etl.contract import ANALYSIS_TABLES, TABLES
from aind_etl.contract.columns import KEY
from aind_etl.orchestration.definitions import build_defs
from aind_etl.warehouse.sql_files import Kind, read_sql_files

SNAPSHOT = Path(__file__).parent / "snapshot.json"


def assets():
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


def names():
    return {
        "columns": {
            table.name: {column.name: column.type.value for column in table.columns}
            for table in TABLES
        },
        "paths in documents": {
            f"{table.name}.{column.name}": {
                name: list(origin.paths) for name, origin in column.origins.items()
            }
            for table in ANALYSIS_TABLES
            for column in table.columns
            if column.is_read and column not in KEY
        },
        **{
            f"{kind.name.lower()}s": [file.name for file in read_sql_files(kind)]
            for kind in (Kind.MACRO, Kind.VIEW, Kind.MART)
        },
        "assets": assets(),
    }


def test_names_are_those_of_the_snapshot():
    found = names()
    if os.environ.get("AIND_ETL_WRITE_SNAPSHOT"):
        SNAPSHOT.write_text(json.dumps(found, indent=1) + "\n")
    expected = json.loads(SNAPSHOT.read_text())
    assert found == expected, "intended? 'make snapshot' renews the file"
    # The order of columns counts as well.
    assert list(map(list, found["columns"].values())) == list(
        map(list, expected["columns"].values())
    )
