"""Measurements of the store at growing numbers of projects: `python -m benchmarks`, or `make bench-storage`."""
