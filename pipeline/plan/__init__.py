"""What of a graph is there, what is missing and why, and how long it will take."""
