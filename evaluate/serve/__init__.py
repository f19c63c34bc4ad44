"""A local web page for questions about videos: `stvg predict --serve`."""
