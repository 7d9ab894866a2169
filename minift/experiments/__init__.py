"""Experiments: many runs of one question, compared."""
