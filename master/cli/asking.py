"""The flow of `council ask`: find or bring up a master, open a session, follow it, tell its end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from master.cli.addresses import load_settings
from master.cli.client import MasterClient
from master.cli.display import showing
from master.cli.failure import CommandFailedError, ExitCode
from master.cli.follow import Follower
from master.cli.interrupts import Interrupts
from master.cli.locate import Located, locate
from master.cli.programs import Child
from master.cli.terminal import console, print_json, tell
from master.cli.watch import Watch

CANCEL_WITHIN_S = 10.0
Session = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Ask:
    """One call of `council ask`, read and checked."""

    body: dict[str, Any]
    url: str | None = None
    key: str | None = None
    config: Path | None = None
    data_dir: Path | None = None
    as_json: bool = False
    live: bool = True
    strict: bool = False
    timeout_s: float | None = None


class Asking:
    """The state that an interrupt needs: what is running and what can be cancelled."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._client: MasterClient | None = None
        self._child: Child | None = None
        self._session_id: str | None = None
        self._created = asyncio.Event()
        self.opening = False

    async def run(self) -> Session:
        """Ask and follow to the end; the report is printed."""
        async with self._master() as found, MasterClient(found.url, found.key, verify=found.verify) as client:
            self._client = client
            self.opening = True
            session: Session = await client.post("/api/council/sessions", self._ask.body)
            self._session_id = str(session["id"])
            self._created.set()
            watch = Watch(self._session_id)
            watch.seat(session)
            async with showing(watch, as_json=self._ask.as_json, live=self._ask.live) as display:
                follower = Follower(client, watch, on_event=display.changed, on_trouble=display.trouble)
                await follower.run()
            session = await client.get(f"/api/council/sessions/{self._session_id}")
            self._tell(session, display.streamed())
            return session

    async def cancel(self) -> None:
        """Cancel the session on the master; one that is just being opened is waited for."""
        try:
            await asyncio.wait_for(self._created.wait(), CANCEL_WITHIN_S)
            if self._client is not None:
                await self._client.post(f"/api/council/sessions/{self._session_id}/cancel")
        except TimeoutError:
            tell("the master did not say whether it opened the session; nothing was cancelled")
        except CommandFailedError as error:
            tell(f"could not cancel: {error.message}")

    def abandon(self) -> None:
        """Let go of everything at once: a master of our own is killed."""
        if self._child is not None:
            self._child.kill()

    @contextlib.asynccontextmanager
    async def _master(self) -> AsyncIterator[Located]:
        ask = self._ask
        settings = None
        if ask.url is None:
            settings = load_settings(ask.config, data_dir=ask.data_dir)
        found = await locate(ask.url, ask.key, settings)
        if found is not None:
            yield found
            return
        tell("no master runs here: starting a local council …")
        arguments = ["--port", "0", "--local-node", "--exit-with-parent", "--host", "127.0.0.1"]
        if ask.config is not None:
            arguments += ["--config", str(ask.config)]
        if ask.data_dir is not None:
            arguments += ["--data-dir", str(ask.data_dir)]
        # Port 0 for the node as well: one of another council may run on the usual port.
        self._child = Child(
            "master", arguments, echo=False, COUNCIL_NODE_PORT="0", COUNCIL_LOG_LEVEL="warning"
        )
        async with self._child as child:
            await child.until_ready()
            key = ask.key or (settings.key if settings else None)
            yield Located(str(child.ready["url"]), key, verify=False)

    def _tell(self, session: Session, streamed: str) -> None:
        if self._ask.as_json:
            print_json(session)
            return
        from master.cli.report import report

        out = console()
        for part in report(session, markdown=out.is_terminal and self._ask.live, answered=streamed):
            out.print(part)


async def run_ask(ask: Ask) -> int:
    """Run one `council ask` with its interrupts and its time limit; the exit code."""
    asking = Asking(ask)
    with Interrupts() as interrupts:
        work = asyncio.create_task(asking.run())
        first = asyncio.create_task(interrupts.first.wait())
        second = asyncio.create_task(interrupts.second.wait())
        cancelling: asyncio.Task[None] | None = None
        try:
            await asyncio.wait({work, first}, timeout=ask.timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return exit_code(work.result(), strict=ask.strict)
            interrupted = first.done()
            why = "cancelling" if interrupted else f"no answer within {ask.timeout_s:g} s: cancelling"
            if asking.opening:
                tell(
                    f"{why} the session … (Ctrl-C again quits at once)"
                    if interrupted
                    else f"{why} the session …"
                )
                cancelling = asyncio.create_task(asking.cancel())
                await asyncio.wait(
                    {work, second}, timeout=CANCEL_WITHIN_S, return_when=asyncio.FIRST_COMPLETED
                )
                if work.done() and not work.cancelled() and work.exception() is None:
                    state = work.result().get("state")
                    tell("cancelled" if state == "cancelled" else f"the session had ended: {state}")
            elif not interrupted:
                tell(f"no answer within {ask.timeout_s:g} s: no session had been opened yet")
            if second.done():
                asking.abandon()
            return ExitCode.INTERRUPTED if interrupted else ExitCode.FAILED
        finally:
            if interrupts.second.is_set():
                asking.abandon()
            tasks = [task for task in (work, first, second, cancelling) if task is not None]
            for task in tasks:
                task.cancel()
            await _settle(tasks, asking, interrupts)


async def _settle(tasks: list[asyncio.Task[Any]], asking: Asking, interrupts: Interrupts) -> None:
    """Wait for the clean-up of every task; a second Ctrl-C meanwhile makes it short."""
    settled: asyncio.Future[Any] = asyncio.gather(*tasks, return_exceptions=True)
    second: asyncio.Future[Any] = asyncio.ensure_future(interrupts.second.wait())
    await asyncio.wait({settled, second}, return_when=asyncio.FIRST_COMPLETED)
    if not settled.done():
        asking.abandon()
    second.cancel()
    await settled


def exit_code(session: Session, *, strict: bool) -> int:
    """0 for an answer, 1 for none; with `strict`, 3 when seats were lost on the way."""
    if session.get("state") != "completed":
        return ExitCode.FAILED
    lost = bool(session.get("missing_agents"))
    if strict and (session.get("result") == "degraded" or (session.get("result") == "single" and lost)):
        return ExitCode.DEGRADED
    return ExitCode.DONE
