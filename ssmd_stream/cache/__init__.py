"""The security master in Valkey or Redis: warmed from Postgres, kept by CDC, read as a tree in a millisecond."""
