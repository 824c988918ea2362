"""Hourly parquet from sealed archive files."""
