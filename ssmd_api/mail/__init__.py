"""Mails: what they say, how they look, how they are sent."""
