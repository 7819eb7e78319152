"""Which code a result was made with."""
