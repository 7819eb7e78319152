"""Building blocks of defenses."""
