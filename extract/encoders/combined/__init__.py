"""Encoders made of other encoders."""
