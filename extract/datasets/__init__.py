"""Annotations of every known dataset become samples, and their faults errors with a place."""
