"""Prediction files of other projects: a module for each format, and the table that recognises them."""
