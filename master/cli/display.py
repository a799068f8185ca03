"""How a running session is shown: panels on a terminal, lines elsewhere, or next to nothing."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator
from typing import Protocol

from master.cli.failure import CommandFailedError
from master.cli.plain import PlainPrinter
from master.cli.terminal import console, drop_output, tell
from master.cli.watch import Watch

FRAME_S = 0.1


class Display(Protocol):
    """What the flow of `council ask` tells while it runs."""

    def changed(self) -> None: ...

    def trouble(self, text: str | None) -> None: ...

    def streamed(self) -> str: ...


class _Outage:
    """Says on standard error that the connection is lost, and that it is back: once each, not per attempt."""

    def __init__(self) -> None:
        self._is_told = False

    def tell(self, text: str | None) -> None:
        if text is None:
            tell("connected again")
        elif not self._is_told:
            tell(f"connection lost ({text}), trying again …")
        self._is_told = text is not None


class Lines:
    """Plain lines on standard output, or only the stages on standard error (`quiet`)."""

    def __init__(self, watch: Watch, *, quiet: bool = False) -> None:
        self._watch = watch
        self._printer = PlainPrinter(sys.stderr if quiet else sys.stdout, quiet=quiet)
        self._outage = _Outage()

    def changed(self) -> None:
        try:
            self._printer.update(self._watch)
        except OSError as error:
            # `council ask … | head`, or a full disk: not to be taken for trouble of the connection.
            drop_output()
            raise CommandFailedError(f"the answer cannot be written: {error.strerror or error}") from error

    def trouble(self, text: str | None) -> None:
        self._outage.tell(text)

    def streamed(self) -> str:
        return self._printer.streamed(self._watch)

    def finish(self) -> None:
        with contextlib.suppress(OSError):
            self._printer.finish()


class Silent:
    """For `--json` in a script: nothing but what goes wrong."""

    def __init__(self) -> None:
        self._outage = _Outage()

    def changed(self) -> None:
        return

    def trouble(self, text: str | None) -> None:
        self._outage.tell(text)

    def streamed(self) -> str:
        return ""


class Panels:
    """Live panels, painted at a steady rate however fast the events come."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._trouble: str | None = None

    def changed(self) -> None:
        return

    def trouble(self, text: str | None) -> None:
        self._trouble = text

    def streamed(self) -> str:
        return ""

    async def paint(self) -> None:
        """Repaint until cancelled; the panels are wiped at the end, the report takes their place."""
        from rich.live import Live

        from master.cli.live import render

        out = console()
        with Live(console=out, auto_refresh=False, transient=True, vertical_overflow="crop") as live:
            while True:
                live.update(render(self._watch, time.monotonic(), out, trouble=self._trouble), refresh=True)
                await asyncio.sleep(FRAME_S)


@contextlib.asynccontextmanager
async def showing(watch: Watch, *, as_json: bool, live: bool) -> AsyncIterator[Display]:
    """The display that fits the terminal, for as long as the session is followed."""
    if as_json and not sys.stderr.isatty():
        yield Silent()
    elif as_json or not (live and sys.stdout.isatty()):
        lines = Lines(watch, quiet=as_json)
        try:
            yield lines
        finally:
            lines.finish()
    else:
        panels = Panels(watch)
        painting = asyncio.create_task(panels.paint())
        try:
            yield panels
        finally:
            painting.cancel()
            # A terminal that went away must not take the answer with it.
            await asyncio.gather(painting, return_exceptions=True)
