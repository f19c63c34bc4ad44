"""What a cache can keep of its encoders' levels, and in what type."""

from __future__ import annotations

KEPT = {"roi": "regions", "full": "maps", "last": "none", "none": "none"}
"""What is kept of the levels before the last, by `Recipe.keep`."""
DTYPES = ("float16", "float32", "bfloat16", "uint8")
"""How features are stored; see `stores.quantise`."""
