"""A gate that is always open, for where nobody watches who is active."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class OpenVerdict:
    open: bool = True
    reason: str = "open"


class OpenGate:
    """See `master.background.run.Gate`."""

    async def passed(self, node: str | None = None, *, long: bool = False) -> None:
        del node, long

    def verdict(self, node: str | None = None, *, long: bool = False) -> OpenVerdict:
        del node, long
        return OpenVerdict()

    @contextmanager
    def changes(self) -> Iterator[asyncio.Event]:
        yield asyncio.Event()
