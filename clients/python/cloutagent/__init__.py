"""Python stubs and clients for CloutAgent."""
