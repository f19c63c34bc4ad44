"""From a cache to tubes: the heads, their losses and the training loop. Knows no video and no dataset names."""
