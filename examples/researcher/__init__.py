"""A researcher that runs several agents at once."""
