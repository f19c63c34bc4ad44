"""Batches for a head: selection of slots, reading and padding of features, and the order of samples."""
