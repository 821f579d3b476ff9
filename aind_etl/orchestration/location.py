"""The definitions with the settings of the environment, as loaded by Dagster's processes."""

from aind_etl.orchestration.definitions import build_defs

defs = build_defs()
