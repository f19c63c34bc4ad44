"""Pixels and sentences become a cache: the only room that knows video and dataset formats."""
