"""Planning: which nodes of a task graph are missing and why, and how long they will take."""
