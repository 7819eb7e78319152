"""Checks of whether a model's numbers can be trusted."""
