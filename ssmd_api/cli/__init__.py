"""The command line, `ssmd`."""
