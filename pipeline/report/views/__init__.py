"""Views: the content of tables and figures as data, independent of the output format."""
