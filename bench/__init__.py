"""The promises of speed and size, measured: `make bench`, or `python -m bench NAME …` for some lines.

Every line is run against what a user would run instead, in the same run, on the same cores, on the same frames: the
ratios count, the figures depend on the machine. The process that is measured has core 0 for itself; servers, sources
and readers share the last core.
"""
