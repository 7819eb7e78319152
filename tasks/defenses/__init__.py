"""Test-time defenses, one per file: the module `mi_ol` defines the kind `mi-ol`."""
