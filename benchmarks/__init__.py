"""Benchmarks: the exporter and other clients in one run, compared as ratios."""
