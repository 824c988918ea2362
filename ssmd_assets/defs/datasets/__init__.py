"""Hourly parquet files, their metadata and their checks."""
