"""Experiment trackers, which receive a run's metrics besides metrics.jsonl: one file and one table row per tracker."""
