"""Metrics, tables, reports, predictions for single videos, ablations, and the demo."""
