"""The security master: what the venues list, in Postgres; one asset a table and venue."""
