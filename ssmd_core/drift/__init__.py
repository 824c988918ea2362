"""The drift sentinel: what a venue's messages look like, and what has changed."""
