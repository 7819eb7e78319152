"""The catalogue: the configs, data sets and user code that a run can choose from, by name."""
