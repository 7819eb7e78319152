"""The torch modules behind the networks."""
