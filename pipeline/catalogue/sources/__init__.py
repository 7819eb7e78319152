"""Where a data set's files are, and how they are read."""
