"""What is made for processors alone: layers worked on in tiles, dropout they can afford, memory that is held on to.

The layers beside this folder ask for it by the device their inputs lie on; without it they would be right, and slow.
"""

from .dropping import dropout
from .few_queries import found, look
from .memory import hold_memory
from .tiled_attention import attend
from .tiled_feed_forward import feed_forward

__all__ = ["attend", "dropout", "feed_forward", "found", "hold_memory", "look"]
