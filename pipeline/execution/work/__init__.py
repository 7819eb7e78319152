"""What performs a node: the only bridge to `tasks`."""
