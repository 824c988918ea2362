"""Who asks, and how far a key reaches."""
