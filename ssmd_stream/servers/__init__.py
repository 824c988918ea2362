"""NATS, Postgres and Valkey from wheels, and the supervisor behind `ssmd up`."""
