"""Makes the API reference in docs/reference from the protos and from what the clients' sources say of themselves."""
