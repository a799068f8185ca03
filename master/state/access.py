"""Keys of people and programs, and join tokens: digests only, so that the database gives no key away."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, cast

from sqlalchemy import String, delete, select, update
from sqlalchemy.engine import CursorResult
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, mapped_column

from common.errors import ConflictError, NotFoundError, UnauthorizedError
from master.state.database import Transactions
from master.state.tables import Base, NodeRow
from master.whereabouts import nowhere, tells_its_address

Role = Literal["person", "admin"]
_USED_TOKENS_KEPT = timedelta(days=1)


class AccessKeyRow(Base):
    """One key of a person or a program. `digest` is its SHA-256 in hex."""

    __tablename__ = "access_keys"

    name: Mapped[str] = mapped_column(String(63), primary_key=True)
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    role: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[datetime]


class JoinTokenRow(Base):
    """A token with which one node may join, once, before `expires_at` by the master's clock."""

    __tablename__ = "join_tokens"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    used_by: Mapped[str | None] = mapped_column(String(63))


@dataclass(frozen=True, slots=True)
class AccessKey:
    """A key as it is listed: never the key itself."""

    name: str
    role: Role
    created_at: datetime
    digest: str


class AccessRepository:
    """Keys and tokens."""

    def __init__(self, transactions: Transactions) -> None:
        self._db = transactions

    async def add_key(self, name: str, digest: str, role: Role) -> AccessKey:
        """Keep a new key. Raises `ConflictError` when the name is taken."""
        key = AccessKey(name, role, datetime.now(UTC), digest)
        try:
            async with self._db.write() as db:
                db.add(AccessKeyRow(name=name, digest=digest, role=role, created_at=key.created_at))
        except IntegrityError as error:
            raise ConflictError(f"there is a key named {name} already; revoke it first") from error
        return key

    async def keys(self) -> list[AccessKey]:
        async with self._db.read() as db:
            rows = await db.scalars(select(AccessKeyRow).order_by(AccessKeyRow.created_at, AccessKeyRow.name))
            return [AccessKey(row.name, cast(Role, row.role), row.created_at, row.digest) for row in rows]

    async def remove_key(self, name: str) -> None:
        """Forget a key. Raises `NotFoundError`."""
        async with self._db.write() as db:
            if _rows(await db.execute(delete(AccessKeyRow).where(AccessKeyRow.name == name))) == 0:
                raise NotFoundError(f"there is no key named {name}; `council keys list` shows them")

    async def add_token(self, digest: str, ttl: timedelta) -> datetime:
        """Keep a join token; when it ends. Tokens that ended long ago are dropped."""
        now = datetime.now(UTC)
        async with self._db.write() as db:
            await db.execute(delete(JoinTokenRow).where(JoinTokenRow.expires_at < now - _USED_TOKENS_KEPT))
            db.add(JoinTokenRow(digest=digest, created_at=now, expires_at=now + ttl))
        return now + ttl

    async def token_lives(self, digest: str) -> bool:
        """Whether a node may join with this token now."""
        async with self._db.read() as db:
            row = await db.get(JoinTokenRow, digest)
            return row is not None and row.used_by is None and row.expires_at > datetime.now(UTC)

    async def join(self, digest: str, *, name: str, url: str, key: str) -> None:
        """Use a token up and keep the node that came with it, both or neither.

        A node of that name at that address is the same one, which joins anew; another one there loses its
        address, or gives way where a person put it there. Raises `UnauthorizedError` (the token is used, too
        old or unknown) and `ConflictError` (the name is taken elsewhere; the token lives on).
        """
        now = datetime.now(UTC)
        unused = (JoinTokenRow.digest == digest) & JoinTokenRow.used_by.is_(None)
        try:
            async with self._db.write() as db:
                used = await db.execute(
                    update(JoinTokenRow).where(unused & (JoinTokenRow.expires_at > now)).values(used_by=name)
                )
                if _rows(used) != 1:
                    raise UnauthorizedError(
                        "this token is used up or too old; `council worker token` prints a new one"
                    )
                for row in await db.scalars(select(NodeRow).where(NodeRow.url == url)):
                    if row.name != name and tells_its_address(row.key, row.fingerprint):
                        row.url = nowhere(url, row.name)
                    else:
                        await db.delete(row)
                await db.flush()
                db.add(NodeRow(name=name, url=url, key=key, draining=False, added_at=now))
        except IntegrityError as error:
            raise ConflictError(f"a node named {name} or at {url} is known already") from error

    async def move_node(self, name: str, url: str) -> None:
        """Keep the new address of a node that joined; another one that had it is nowhere from now on.

        Raises `ConflictError`, and keeps nothing, when that one is there because a person said so.
        """
        others = select(NodeRow).where((NodeRow.url == url) & (NodeRow.name != name))
        try:
            async with self._db.write() as db:
                for row in await db.scalars(others):
                    if tells_its_address(row.key, row.fingerprint):
                        row.url = nowhere(url, row.name)
                await db.flush()
                await db.execute(update(NodeRow).where(NodeRow.name == name).values(url=url))
        except IntegrityError as error:
            raise ConflictError(f"another node is known at {url}") from error


def _rows(result: object) -> int:
    return cast("CursorResult[object]", result).rowcount
