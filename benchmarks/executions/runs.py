"""Stub for now."""
from contextlib import asynccontextmanager
from cloutagent_server.engine.local_model import LocalModel


@asynccontextmanager
async def local_model():
    model = LocalModel()
    await model.start()
    try:
        yield model
    finally:
        await model.stop()
