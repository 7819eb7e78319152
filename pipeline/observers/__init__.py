"""Who is told of a run: the terminal, and MLflow."""
