"""Servers that play the venues, from recordings or from a seeded generator, with faults on demand."""
