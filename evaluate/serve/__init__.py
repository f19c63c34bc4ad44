"""A page on this machine that asks a head about videos: `stvg predict --serve`."""
