"""What the tests of this folder share."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def cheap_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys are hashed as everywhere, at less cost."""
    monkeypatch.setattr("cloutagent_server.service.auth.BCRYPT_COST", 4)
