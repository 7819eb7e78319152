"""Reports: from scores in the store to tables, figures and web pages."""
