"""What networks of one family share."""
