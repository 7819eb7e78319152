"""How the missing nodes of a graph are computed."""
