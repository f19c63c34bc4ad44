"""Implementations for CPUs: tiled layers, fast dropout, attention of few queries, and memory that the process keeps.

Layers use them where their inputs are on a CPU. torch's own operations give equivalent results there, but are slower.
"""

from .dropping import dropout
from .few_queries import found, look
from .memory import hold_memory, return_memory
from .tiled_attention import attend
from .tiled_feed_forward import feed_forward

__all__ = ["attend", "dropout", "feed_forward", "found", "hold_memory", "look", "return_memory"]
