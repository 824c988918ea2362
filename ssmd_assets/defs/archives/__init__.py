"""The raw archive, as external assets, and the sensor that watches it."""
