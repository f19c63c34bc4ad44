"""Readers of every supported dataset: annotations → samples, and errors that name file, record and field."""
