"""Images, their random numbers and their splits."""
