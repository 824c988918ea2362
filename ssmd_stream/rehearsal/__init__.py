"""Rehearse a capture: replay, real connector, real NATS, real archiver; then compare what went in and came out."""
