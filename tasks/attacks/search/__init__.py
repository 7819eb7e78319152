"""Building blocks of attacks: norm balls, objectives and searches."""
