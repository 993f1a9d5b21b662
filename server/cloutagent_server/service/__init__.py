"""Use cases over the contracts of storage and engine."""
