"""Emitters: one operation on one tile as a micro-program."""
