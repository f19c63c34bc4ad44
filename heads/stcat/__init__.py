"""STCAT: one anchor box per frame and one content vector per video guide a spatial and a temporal decoder."""
