"""What a Dagster process loads: the definitions, under the environment's settings."""

from aind_etl.orchestration.definitions import build_defs

defs = build_defs()
