"""Quality scores: from ledgers, manifests and parquet footers to a number whose formula and inputs are public."""
