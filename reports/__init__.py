"""Findings for people and for CI: text, HTML, JSON."""
