"""Which instruments should have been captured in an hour, and whether they were asked for and acknowledged."""
