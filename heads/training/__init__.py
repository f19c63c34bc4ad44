"""A training run: its folder, settings, loop, ranks, and resumption after a stop."""
