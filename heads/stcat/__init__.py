"""STCAT: an anchor box per frame and a content vector per video initialise a spatial and a temporal decoder."""
