"""Stores of feature units: the common interface, the file formats, and access to object storage."""
