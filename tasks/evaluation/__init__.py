"""Examples crafted, selected, answered by a defended model, and scored."""
