"""Prediction files that other projects write: a file for each format, and the table that recognises them."""
