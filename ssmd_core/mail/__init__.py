"""Mails: how they look, what they say of health, diagnosis and volume, how they are sent."""
