"""What configs, data sets and code there are to choose from, by name."""
