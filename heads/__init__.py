"""From a cache to tubes: the FSM head, its losses and its training loop. Knows no video and no dataset names."""
