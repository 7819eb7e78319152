"""A network with its weights, prepared for inference and attacks."""
