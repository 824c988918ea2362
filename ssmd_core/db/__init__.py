"""ssmd's own tables in Postgres: the security master, its history, keys, settings, quality."""
