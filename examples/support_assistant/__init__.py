"""A support assistant that looks orders up in a CRM."""
