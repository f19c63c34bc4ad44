"""A run as one HTML page to look at: scores, breakdowns, training curves, and a gallery of groundings."""
