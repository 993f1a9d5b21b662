"""A data analyst that computes in a sandbox."""
