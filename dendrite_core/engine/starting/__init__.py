"""What a start does beside loading the weights."""
