"""A code reviewer for continuous integration."""
