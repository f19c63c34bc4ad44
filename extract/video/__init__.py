"""Video files: which one, which stream, which frame when, decoded in child processes."""
