"""From JetStream to sealed files: the archiver."""
