"""Passes from TOP to TOP and from TOP to TPU."""
