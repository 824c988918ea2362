"""What stands behind the word of an hour: ledgers, intervals, scores, drift, reconciliations, reports, books."""
