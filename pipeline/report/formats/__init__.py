"""Tables and figures as files: Markdown, LaTeX, CSV, Parquet, SVG and HTML."""
