"""Attacks of other libraries, adapted to the interface of `tasks.attacks`."""
