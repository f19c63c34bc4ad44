"""stvg: spatio-temporal video grounding from an offline feature cache.

Given an untrimmed video and a sentence, find the tube: when it happens, and the box of the one meant in every frame.
"""

__version__ = "0.1.0"
