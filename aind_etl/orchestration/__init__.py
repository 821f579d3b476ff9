"""All of Dagster, and nothing but Dagster.

Each asset is a few lines that call a room of the package and report metadata. Work itself does
not belong here, and no other room imports Dagster.
"""
