"""Output formats of a report: Markdown, LaTeX, CSV, Parquet, SVG, HTML and the terminal."""
