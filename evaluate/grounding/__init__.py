"""Sentences about videos of one's own → moments and boxes: the request, the head that answers, and what it writes."""
