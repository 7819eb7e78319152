"""Code shared by networks of one family."""
