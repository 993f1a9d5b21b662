"""The Python client, blocking and for asyncio, against a real server."""
