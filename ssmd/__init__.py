"""ssmd for researchers: `ssmd.Client` lists, downloads and reads captured market data."""
