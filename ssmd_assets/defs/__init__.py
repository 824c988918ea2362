"""A folder per domain: what changes together stands together."""
