"""Identification of code by content hash, so that results can be traced to the code they come from."""
