from __future__ import annotations

from tests.unit.state.conftest import address, store

__all__ = ["address", "store"]
