"""How numbers and settings read in text."""
