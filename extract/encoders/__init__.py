"""Frozen visual encoders and text encoders."""
