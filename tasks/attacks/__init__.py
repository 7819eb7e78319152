"""Attacks, one per file. A kind `pgd` is the module `pgd`."""
