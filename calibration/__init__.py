"""Samples to statistics to thresholds to a table."""
