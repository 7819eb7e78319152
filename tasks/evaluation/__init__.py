"""Crafting and selecting examples, predictions of a defended model, and their scores."""
