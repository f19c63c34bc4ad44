"""Maintenance of caches: summarise, verify, repair, convert, export and merge."""
