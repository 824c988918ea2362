"""Scores, reconciliation, reports, and the sensors that tell somebody."""
