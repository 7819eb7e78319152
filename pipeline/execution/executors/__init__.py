"""Executors, which compute nodes: in this process, or on Ray."""
