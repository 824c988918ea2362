"""Asking the venues what exists: REST clients, what their answers mean, and the syncs that bring it into Postgres."""
