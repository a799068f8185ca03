"""A slow, narrow or broken link: a TCP relay that delays, limits, stalls and cuts what passes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

_SLICE = 1024  # connections take turns on a narrow link, so many bytes each
_IN_FLIGHT = 64  # slices on their way per direction of a connection: what a router would hold


class _Lane:
    """One direction of the link: all its connections share the bandwidth."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self.passed = 0

    async def take(self, size: int, bytes_per_s: float | None) -> None:
        self.passed += size
        if bytes_per_s is not None:
            async with self._turn:
                await asyncio.sleep(size / bytes_per_s)


@dataclass
class SlowLink:
    """`url` leads to the server behind the link. Its fields may be changed while connections are open.

    `latency_s` each way; `bytes_per_s` each way, shared by all connections; `cut_after`: so many bytes of an
    answer pass, then the connection is reset, once. `stalled`: nothing passes, and nothing is closed.
    """

    host: str
    port: int
    latency_s: float = 0.0
    bytes_per_s: float | None = None
    cut_after: int | None = None
    url: str = ""
    cuts: int = 0
    opened: int = 0
    _up: _Lane = field(default_factory=_Lane)
    _down: _Lane = field(default_factory=_Lane)
    _flowing: asyncio.Event = field(default_factory=asyncio.Event)
    _connections: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def passed_down(self) -> int:
        """Bytes of answers so far."""
        return self._down.passed

    def stall(self) -> None:
        """From now on the link is half-open: everybody believes that it is there."""
        self._flowing.clear()

    def resume(self) -> None:
        """What was on its way goes on."""
        self._flowing.set()

    def strand(self) -> None:
        """What is open now stays silent for ever; new connections work. So it is after a change of Wi-Fi."""
        self._flowing, stranded = asyncio.Event(), self._flowing
        self._flowing.set()
        stranded.clear()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[SlowLink]:
        self._flowing.set()
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            for task in list(self._connections):
                task.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        task = asyncio.create_task(self._relay(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        task.add_done_callback(lambda _: writer.transport.abort())  # it may be cancelled before it begins

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers: list[asyncio.StreamWriter] = []
        flowing = self._flowing
        try:
            await flowing.wait()
            far_reader, far_writer = await asyncio.open_connection(self.host, self.port)
            writers.append(far_writer)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass(reader, far_writer, self._up, flowing, cuts=False))
                group.create_task(self._pass(far_reader, writer, self._down, flowing, cuts=True))
        except (OSError, ExceptionGroup):
            pass  # either end went away, or the link was cut
        finally:
            for one in writers:
                one.transport.abort()

    async def _pass(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        lane: _Lane,
        flowing: asyncio.Event,
        *,
        cuts: bool,
    ) -> None:
        """Read, let it be on its way for the latency, and write; the end of the bytes is passed on, too."""
        on_its_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_IN_FLIGHT)
        clock = asyncio.get_running_loop().time

        async def arrive() -> None:
            while True:
                due, data = await on_its_way.get()
                await asyncio.sleep(max(due - clock(), 0.0))
                await flowing.wait()
                if not data:
                    with contextlib.suppress(OSError):
                        writer.write_eof()
                    return
                await lane.take(len(data), self.bytes_per_s)
                if cuts and self._is_cut(len(data)):
                    raise ConnectionResetError
                writer.write(data)
                await writer.drain()

        async with asyncio.TaskGroup() as group:
            group.create_task(arrive())
            while True:
                data = await reader.read(_SLICE)
                await on_its_way.put((clock() + self.latency_s, data))
                if not data:
                    return

    def _is_cut(self, size: int) -> bool:
        if self.cut_after is None:
            return False
        self.cut_after -= size
        if self.cut_after > 0:
            return False
        self.cut_after = None
        self.cuts += 1
        return True
