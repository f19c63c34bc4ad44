"""From samples of a cache to what a head sees: which slots, read and padded together, in what order."""
