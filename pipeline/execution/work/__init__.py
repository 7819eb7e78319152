"""Computing a node: the only code that calls the functions of `tasks`."""
