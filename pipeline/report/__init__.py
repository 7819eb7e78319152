"""From scores in the store to tables, figures and pages."""
