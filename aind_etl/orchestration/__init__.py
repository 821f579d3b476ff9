"""All of Dagster: assets, checks, jobs, sensors, schedules, and nothing else.

An asset is a few lines that call another package and report metadata. No other package imports
Dagster.
"""

import warnings

import dagster as dg

# Backfill policies, freshness policies and the like: their versions are pinned, and a release
# that changes them is a change of this package. Users at a terminal need not see them.
for _category in (dg.BetaWarning, dg.PreviewWarning):
    warnings.filterwarnings("ignore", category=_category)
