# Generated from protos/ by `make generate`. Do not edit.
"""Generated messages and service stubs of the API package `cloutagent.v1`."""
