"""Archived trades against what the venue's REST interface says was traded, and the backfill of what is missing."""
