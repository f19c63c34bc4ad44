"""Metrics exactly as the field counts them, tables, and the demo."""
