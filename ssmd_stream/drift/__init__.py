"""The drift sentinel on live messages and REST bodies, and its log in Postgres."""
