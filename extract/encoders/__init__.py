"""Frozen encoders of pictures and of sentences."""
