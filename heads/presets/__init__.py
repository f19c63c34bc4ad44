"""Shipped head and training presets, as YAML overrides of the dataclasses."""
