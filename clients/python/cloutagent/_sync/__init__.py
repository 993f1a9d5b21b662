# Generated from cloutagent/_async by `make generate`. Do not edit.
"""The blocking client."""
