"""Tables of ablations from one cache: their cells, their processes, their figures."""
