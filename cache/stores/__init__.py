"""One unit a video: its file formats, its addresses, and what every store promises."""
