"""Who does which part of an extraction: shares of the videos, and what starts the processes that take them."""
