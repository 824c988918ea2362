"""JetStream streams, as external assets."""
