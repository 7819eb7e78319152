"""The torch modules of the networks."""
