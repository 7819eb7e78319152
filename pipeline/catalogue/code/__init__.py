"""Identification of code by content hash, so that results can be traced to their code."""
