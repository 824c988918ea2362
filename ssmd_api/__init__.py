"""Every front door of ssmd: the command line, and the HTTP services."""
