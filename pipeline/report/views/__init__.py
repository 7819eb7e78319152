"""What a table or a figure shows, as data."""
