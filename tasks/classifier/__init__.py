"""A network with its weights, ready to be attacked or asked."""
