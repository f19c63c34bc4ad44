"""Divide an extraction: shares of the videos, and the launchers that start a process for each share."""
