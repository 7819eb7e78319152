"""Execution of a task graph: the runner, the executors (Ray and inline), and the work of a node."""
