"""The nodes that people added, so that a restarted master finds them again."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import delete, func, select, update
from sqlalchemy.exc import IntegrityError

from common.errors import ConflictError, InvalidRequestError, NotFoundError
from master.council.plan import Outcome
from master.state.database import Transactions
from master.state.tables import AttemptRow, NodeRow


@dataclass(frozen=True, slots=True)
class StoredNode:
    """A node as it was added. `key` is what the master shows it; `fingerprint` its certificate's; `mac` the
    address of its network card.
    """

    name: str
    url: str
    key: str | None
    fingerprint: str | None
    draining: bool
    mac: str | None = None


@dataclass(frozen=True, slots=True)
class NodeCalls:
    """How the calls on one node ended. `errors` counts the failed ones by their code."""

    done: int
    failed: int
    errors: dict[str, int]

    @property
    def error_rate(self) -> float | None:
        """The share that failed, 0 to 1; `None` before any call ended."""
        ended = self.done + self.failed
        return round(self.failed / ended, 4) if ended else None


class NodeRepository:
    def __init__(self, transactions: Transactions) -> None:
        self._db = transactions

    async def add(self, name: str, url: str, key: str | None, fingerprint: str | None) -> None:
        """Keep a node. Raises `ConflictError` when its name or address is taken, `InvalidRequestError`."""
        for what, value, most in (("name", name, 63), ("address", url, 500), ("key", key or "", 500)):
            if len(value) > most:
                raise InvalidRequestError(f"the {what} of a node has at most {most} characters")
        row = NodeRow(name=name, url=url, key=key, fingerprint=fingerprint, added_at=datetime.now(UTC))
        try:
            async with self._db.write() as db:
                db.add(row)
        except IntegrityError as error:
            raise ConflictError(f"a node named {name} or at {url} is known already") from error

    async def list(self) -> list[StoredNode]:
        """Every node, in the order they were added."""
        async with self._db.read() as db:
            rows = await db.scalars(select(NodeRow).order_by(NodeRow.added_at, NodeRow.name))
            return [_stored(row) for row in rows]

    async def get(self, name: str) -> StoredNode:
        """One node. Raises `NotFoundError`."""
        async with self._db.read() as db:
            row = await db.get(NodeRow, name)
            if row is None:
                raise NotFoundError(f"there is no node {name}")
            return _stored(row)

    async def remove(self, name: str) -> None:
        """Forget a node; one that only settings name is no error."""
        async with self._db.write() as db:
            await db.execute(delete(NodeRow).where(NodeRow.name == name))

    async def calls_since(self, name: str, since: float) -> NodeCalls:
        """How the calls of sessions ended there that began at `since` (Unix seconds) or later.

        A call that had to be restarted elsewhere failed here.
        """
        here = (AttemptRow.node == name, AttemptRow.started_at >= since)
        ended_well = select(func.count()).where(*here, AttemptRow.outcome == Outcome.DONE.value)
        failures = (Outcome.FAILED.value, Outcome.RESTARTED.value)
        async with self._db.read() as db:
            done = await db.scalar(ended_well)
            problems = await db.scalars(
                select(AttemptRow.error).where(*here, AttemptRow.outcome.in_(failures))
            )
            codes = Counter(str((problem or {}).get("code", "unknown")) for problem in problems)
        return NodeCalls(done or 0, codes.total(), dict(codes.most_common()))

    async def set_mac(self, name: str, mac: str) -> None:
        """Keep by which card a PC is woken; a node that only settings name is no error."""
        async with self._db.write() as db:
            await db.execute(update(NodeRow).where(NodeRow.name == name).values(mac=mac))

    async def set_draining(self, name: str, draining: bool) -> None:
        """Keep whether a node takes new calls; one that only settings name is no error."""
        async with self._db.write() as db:
            await db.execute(update(NodeRow).where(NodeRow.name == name).values(draining=draining))


def _stored(row: NodeRow) -> StoredNode:
    return StoredNode(row.name, row.url, row.key, row.fingerprint, row.draining, row.mac)
