"""Backups of a data folder: making, checking and restoring them."""
