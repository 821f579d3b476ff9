"""aind-etl: AIND's analysis results as parquet and a DuckDB warehouse."""
