"""The DuckDB warehouse: built from the lake, checked, and published in one step."""
