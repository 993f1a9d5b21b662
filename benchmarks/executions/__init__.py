"""Measurements of executions and their watchers: `python -m benchmarks.executions`, or `make bench-executions`."""
