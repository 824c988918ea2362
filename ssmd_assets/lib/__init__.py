"""What the definitions share; nothing here is an asset, a check or a sensor of its own."""
