"""The benchmark as a graph of cached tasks: specs, digests and places."""

__version__ = "0.1.0"
