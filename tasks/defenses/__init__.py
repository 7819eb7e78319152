"""Test-time defenses, one idea per file. A kind `mi-ol` is the module `mi_ol`."""
