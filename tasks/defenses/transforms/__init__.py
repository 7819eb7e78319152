"""The parts that defenses transform images with."""
