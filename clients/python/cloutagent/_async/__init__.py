"""The client for asyncio. `cloutagent._sync` is made from these modules by `scripts/generate_sync_client.py`."""
