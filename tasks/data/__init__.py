"""Images: how they are held, drawn for and split."""
