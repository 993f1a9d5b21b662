"""Makes the API reference in docs/reference from the protos and from the docstrings of the Python client."""
