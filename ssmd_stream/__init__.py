"""Daemons: capture, archive, replay, local servers. Imports only ssmd_core."""
