"""Where records live: the contracts in `base` and their backends."""
