"""The parts that attacks search with: balls, objectives, descents."""
