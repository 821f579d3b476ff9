"""All of Dagster, and nothing but Dagster.

Each asset is a few lines that call a room of the package and report metadata. Work itself does
not belong here, and no other room imports Dagster.
"""

import warnings

import dagster as dg

# Backfill policies, freshness policies and the like: their versions are pinned, and a release
# that changes them is a change of this package. People at a terminal need not be told.
for _category in (dg.BetaWarning, dg.PreviewWarning):
    warnings.filterwarnings("ignore", category=_category)
