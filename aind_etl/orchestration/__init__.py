"""Dagster's assets, checks, jobs, sensors and schedules; no other package imports Dagster.

An asset is a few lines that call another package and report metadata.
"""

import warnings

import dagster as dg

# Backfill policies, freshness policies and others are beta features. Dagster's version is pinned,
# and users cannot act on the warnings.
for _category in (dg.BetaWarning, dg.PreviewWarning):
    warnings.filterwarnings("ignore", category=_category)
