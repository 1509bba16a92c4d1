"""Measurements of the SDK."""
