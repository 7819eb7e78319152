"""The benchmark as a graph of cached tasks: specs, digests and places."""
