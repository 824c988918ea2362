"""Consumers from JetStream to Postgres: what a venue says of its markets, and what it says of funding."""
