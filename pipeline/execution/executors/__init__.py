"""Where nodes run: in this process, or on Ray."""
