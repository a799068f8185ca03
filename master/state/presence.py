"""This process among the masters on one PostgreSQL: its locks, its row, and what it sees of the others.

It has one connection of its own, over which it holds a lock for each name that it lives under. The server
gives them back when the connection ends, so the death of a process is seen within a second, and that of a
machine once keep-alives fail.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psycopg import AsyncConnection, OperationalError
from sqlalchemy.engine import URL

from common.errors import StorageBusyError
from common.logs import get_logger
from master.cluster.roll import Roll, lock_key
from master.state.database import server_options

if TYPE_CHECKING:
    from typing import LiteralString

LIFE_FILE = "master.id"
LEADER = "leader"
_LOOK_EVERY_S = 0.5
_BEAT_EVERY_S = 5.0
_RECONNECT_EVERY_S = 0.3
_SAME_USE_S = 0.3
# The server asks after us: a machine that vanished without a word loses its locks within five seconds.
_WATCHED = (
    "-c tcp_keepalives_idle=2 -c tcp_keepalives_interval=1 -c tcp_keepalives_count=2 "
    "-c tcp_user_timeout=4000 -c statement_timeout=5s"
)
_HELD = """
SELECT (classid::bigint << 32) | objid::bigint AS key, pid FROM pg_locks
WHERE locktype = 'advisory' AND objsubid = 1 AND granted
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Peer:
    """A master on the same database. `url` is where others reach it; empty until it serves."""

    id: str
    name: str
    url: str
    version: str
    started_at: datetime
    is_leader: bool = False


class Presence:
    """`running` keeps it; `peers` are the other masters that live, by id; `address` is this machine's as the
    server sees it.
    """

    def __init__(
        self, address: URL, *, name: str, version: str, data_dir: Path | None, cluster_key: str = ""
    ) -> None:
        """`cluster_key`: what the masters show each other. Without a `data_dir` it is no master: a process
        that only runs jobs holds locks and sees those of others, and nobody sends it anything.
        """
        self.id = uuid.uuid4().hex
        self.name = name
        self.cluster_key = cluster_key
        self.peers: Mapping[str, Peer] = {}
        self.is_leader = False
        # Seconds since people used this master (`None`: never), and who is told of the others' uses.
        self.used_s_ago: Callable[[], float | None] = lambda: None
        self.on_use_elsewhere: Callable[[float], None] = lambda _seconds_ago: None
        self._told_use_at = float("-inf")
        self._version = version
        self.url = ""
        self._conninfo = address.set(drivername="postgresql").render_as_string(hide_password=False)
        self._options = server_options(address) | {"options": _WATCHED}
        self._life = data_dir / LIFE_FILE if data_dir is not None else None
        self._roll = Roll()
        self._names = {self.id}
        self._connection: AsyncConnection[Any] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changing = asyncio.Lock()
        self._beaten_at = float("-inf")
        self.address = ""

    # -- life ---------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Be there until the end; then say good-bye, so that others need not wait. Raises storage errors."""
        self._loop = asyncio.get_running_loop()
        try:
            await self._connect()
        except (OperationalError, OSError) as error:
            raise StorageBusyError(f"the database does not answer ({error}); see that it runs") from error
        if self._life is not None:
            # Whoever lived in this folder before is dead: this process holds its lock.
            before = await asyncio.to_thread(_exchange_life, self._life, self.id)
            if before:
                self._roll.gone(before)
        await self._look()
        looking = asyncio.create_task(self._keep_looking(), name="presence")
        try:
            yield
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
            await self._leave()

    async def announce(self, url: str) -> None:
        """From now on other masters reach this one there."""
        self.url = url
        self._beaten_at = float("-inf")
        with contextlib.suppress(OperationalError, OSError):
            await self._look()

    async def _connect(self) -> None:
        connection = await AsyncConnection.connect(self._conninfo, autocommit=True, **self._options)
        try:
            for name in sorted(self._names):
                await connection.execute("SELECT pg_try_advisory_lock(%s)", [lock_key(name)])
            if not self.address:
                row = await (await connection.execute("SELECT host(inet_client_addr())")).fetchone()
                self.address = str(row[0]) if row and row[0] else "127.0.0.1"
        except BaseException:
            await connection.close()
            raise
        self._connection = connection
        self._beaten_at = float("-inf")
        self._roll.connected(time.monotonic())

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            try:
                if self._connection is None:
                    await self._connect()
                    _log.info("back among the masters")
                await self._look()
            except (OperationalError, OSError) as error:
                if self._roll.is_connected:
                    _log.warning(
                        "the database is away; nobody is taken for dead meanwhile", reason=str(error)
                    )
                await self._disconnect()
                await asyncio.sleep(_RECONNECT_EVERY_S)
                continue
            except Exception:
                _log.exception("the other masters could not be looked for")

    async def _disconnect(self) -> None:
        self._roll.disconnected()
        self.is_leader = False
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(OperationalError, OSError):
                await connection.close()

    async def _leave(self) -> None:
        with contextlib.suppress(OperationalError, OSError, TimeoutError):
            async with asyncio.timeout(2.0):
                await self._execute("DELETE FROM masters WHERE id = %s", [self.id])
        await self._disconnect()

    # -- looking ------------------------------------------------------------------------------------------

    async def _look(self) -> None:
        now = time.monotonic()
        if self._life is None:
            self._roll.seen(dict(await self._execute(_HELD)))
            return
        if now - self._beaten_at >= _BEAT_EVERY_S:
            await self._execute(
                "INSERT INTO masters (id, name, url, version, started_at, seen_at) "
                "VALUES (%s, %s, %s, %s, now(), now()) ON CONFLICT (id) DO UPDATE "
                "SET url = excluded.url, seen_at = excluded.seen_at",
                [self.id, self.name, self.url, self._version],
            )
            self._beaten_at = now
        await self._tell_use(now)
        holders = dict(await self._execute(_HELD))
        rows = await self._execute(
            "SELECT id, name, url, version, started_at, extract(epoch FROM now() - used_at)::float8 "
            "FROM masters"
        )
        self._roll.seen(holders)
        leader = holders.get(lock_key(LEADER))
        peers = {}
        for id_, name, url, version, started_at, used_s_ago in rows:
            if id_ == self.id:
                continue
            if self._roll.lives(id_, time.monotonic()):
                is_leader = leader is not None and holders.get(lock_key(id_)) == leader
                peers[id_] = Peer(id_, name, url, version, started_at, is_leader)
                if used_s_ago is not None:
                    self.on_use_elsewhere(used_s_ago)
            else:
                _log.info("a master is gone", master=name, id=id_)
                await self._execute("DELETE FROM masters WHERE id = %s", [id_])
        self.peers = peers
        if leader is None:
            found = await self._execute("SELECT pg_try_advisory_lock(%s)", [lock_key(LEADER)])
            self.is_leader = bool(found[0][0])
        else:
            self.is_leader = leader == holders.get(lock_key(self.id))

    async def _tell_use(self, now: float) -> None:
        """Let the others know that people are here. By the server's clock: no two machines' are compared."""
        seconds_ago = self.used_s_ago()
        if seconds_ago is None or now - seconds_ago <= self._told_use_at + _SAME_USE_S:
            return
        await self._execute(
            "UPDATE masters SET used_at = now() - make_interval(secs => %s) WHERE id = %s",
            [seconds_ago, self.id],
        )
        self._told_use_at = now - seconds_ago

    async def _execute(self, query: LiteralString, values: list[Any] | None = None) -> list[Any]:
        if self._connection is None:
            raise OperationalError("not connected")
        async with self._changing:
            cursor = await self._connection.execute(query, values)
            return await cursor.fetchall() if cursor.description else []

    def lives(self, name: str) -> bool:
        """Whether to treat a master or an executor of that id as alive. May be asked from a thread."""
        return name in self._names or self._roll.lives(name, time.monotonic())

    # -- other names --------------------------------------------------------------------------------------

    def hold(self, name: str) -> None:
        """Live under another name as well, as an executor of jobs does. From a thread."""
        self._from_thread(self._take(name))

    def release(self, name: str) -> None:
        """Give a name up. From a thread."""
        self._from_thread(self._give(name))

    def _from_thread(self, work: Any) -> None:
        assert self._loop is not None, "it runs"
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10.0)

    async def _take(self, name: str) -> None:
        self._names.add(name)
        with contextlib.suppress(OperationalError):  # taken when it is connected again
            await self._execute("SELECT pg_try_advisory_lock(%s)", [lock_key(name)])

    async def _give(self, name: str) -> None:
        self._names.discard(name)
        with contextlib.suppress(OperationalError):
            await self._execute("SELECT pg_advisory_unlock(%s)", [lock_key(name)])


def _exchange_life(file: Path, fresh: str) -> str | None:
    """Note who lives in this folder now; who did before."""
    try:
        before = file.read_text(encoding="ascii").strip() or None
    except (OSError, ValueError):
        before = None
    with contextlib.suppress(OSError):  # a full disk: others then wait until its lock is seen to be gone
        file.write_text(fresh, encoding="ascii")
    return before
