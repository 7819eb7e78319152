"""From a named grid to cells, and from cells to the graph of nodes that computes them."""
