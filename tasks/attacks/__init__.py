"""Attacks, one per file: the module `pgd` defines the kind `pgd`."""
