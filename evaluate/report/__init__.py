"""The HTML report of a run: scores, breakdowns, training curves, and a gallery of groundings."""
