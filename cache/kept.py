"""Forms in which a cache keeps levels, and the types of stored features."""

from __future__ import annotations

KEPT = {"roi": "regions", "full": "maps", "last": "none", "none": "none"}
"""Form of the levels before the last, by `Recipe.keep`."""
DTYPES = ("float16", "float32", "bfloat16", "uint8")
"""Types of stored features; see `stores.quantise`."""
