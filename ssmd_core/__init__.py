"""Foundation of ssmd: the registry of feeds, message handling, the archive format, datasets and settings.

Imports none of the other wings (a test enforces it).
"""
