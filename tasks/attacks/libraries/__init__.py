"""Attacks of other libraries as attacks of this one."""
