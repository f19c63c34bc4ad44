"""Ablation tables from one cache: their cells, processes and results."""
