"""The demo: draw a synthetic dataset, extract its features, train and score a head, and show the results."""
