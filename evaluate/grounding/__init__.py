"""Grounding of sentences in the user's own videos: the request, the predictor, and its outputs."""
