"""Object storage: where a copy of the archive and the datasets lies, and how its objects are named."""
