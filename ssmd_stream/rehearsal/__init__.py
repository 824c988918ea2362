"""Rehearse a capture: replay, real connector, real NATS, real archiver, and a comparison of what went in and came out."""
