"""Heads, their losses, the training loop and inference. They read caches, and depend on no video decoder and no data
set's format."""
