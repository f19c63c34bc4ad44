"""A run: its folder, its settings, its loop, its ranks, and how it goes on after a stop."""
