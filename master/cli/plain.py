"""A session as plain lines: for pipes, logs and files. No control codes, nothing printed twice."""

from __future__ import annotations

from typing import TextIO

from master.cli.printable import one_line
from master.cli.watch import CHAIRMAN, STAGES, CallView, Watch

STAGE_TITLES = {"opinions": "opinions", "review": "review", "synthesis": "synthesis"}


def stage_title(stage: str) -> str:
    """`Stage 1 of 3: opinions`."""
    return f"Stage {STAGES.index(stage) + 1} of {len(STAGES)}: {stage}" if stage in STAGES else stage


class PlainPrinter:
    """Prints what is new in a `Watch`, compared with what it printed before.

    Opinions run side by side, so they are printed by whole lines with the name in front; the synthesis is
    one voice and is printed as it comes. `quiet` leaves the texts out and keeps the stage lines.
    """

    def __init__(self, out: TextIO, *, quiet: bool = False) -> None:
        self._out = out
        self._quiet = quiet
        self._printed: dict[tuple[str, str], int] = {}
        self._restarts: dict[tuple[str, str], int] = {}
        self._told: set[tuple[str, ...]] = set()
        self._stage: str | None = None
        self._in_line = False

    def update(self, watch: Watch) -> None:
        """Print the news."""
        for stage in STAGES:
            calls = [call for (of, _), call in watch.calls.items() if of == stage]
            if stage == watch.stage or any(call.state != "waiting" for call in calls):
                self._once(
                    ("stage", stage),
                    f"\n{stage_title(stage)}\n" if stage != "opinions" else f"{stage_title(stage)}\n",
                )
            for call in calls:
                self._call(call)
            if stage == "review":
                for reviewer, verdict in watch.ballots.items():
                    self._once(("ballot", reviewer, verdict), f"  {reviewer}: ballot {verdict}\n")
        for text in watch.warnings:
            self._once(("warning", text), f"warning: {one_line(text)}\n")
        self._out.flush()

    def notice(self, text: str) -> None:
        """A line that is no part of the session."""
        self._line(f"{text}\n")
        self._out.flush()

    def streamed(self, watch: Watch) -> str:
        """The chairman's text as far as it was printed."""
        call = watch.calls.get(("synthesis", CHAIRMAN))
        if call is None or self._quiet:
            return ""
        return call.text[: self._printed.get(("synthesis", CHAIRMAN), 0)]

    def finish(self) -> None:
        """End the line that is open."""
        if self._in_line:
            self._out.write("\n")
            self._in_line = False
        self._out.flush()

    def _call(self, call: CallView) -> None:
        key = (call.stage, call.agent_id)
        name = f"  {call.agent_id}"
        if call.state in ("running", "done", "failed") and call.started_at is not None:
            place = " · ".join(part for part in (call.model, call.node) if part)
            self._once(("started", *key, place), f"{name}: {place or 'started'}\n")
        if call.restarts > self._restarts.get(key, 0):
            self._restarts[key] = call.restarts
            self._printed[key] = 0
            self._line(f"{name}: {one_line(call.note or 'began anew')}\n")
        if not self._quiet and call.stage != "review":
            self._text(call, key)
        if call.state == "failed":
            self._once(("failed", *key, call.note or ""), f"{name}: failed: {one_line(call.note or '')}\n")
        elif call.state == "done" and call.completion_tokens is not None:
            speed = f", {call.measured_speed:.1f} tok/s" if call.measured_speed else ""
            self._once(("done", *key), f"{name}: done, {call.completion_tokens} tokens{speed}\n")

    def _text(self, call: CallView, key: tuple[str, str]) -> None:
        start = self._printed.get(key, 0)
        new = call.text[start:]
        if call.stage == "synthesis":
            if new:
                self._out.write(new)
                self._in_line = not new.endswith("\n")
                self._printed[key] = len(call.text)
            return
        if call.state == "running":
            new = new[: new.rfind("\n") + 1]
        if new:
            for line in new.rstrip("\n").split("\n"):
                self._line(f"  {call.agent_id} | {line}\n")
            self._printed[key] = start + len(new)

    def _once(self, key: tuple[str, ...], line: str) -> None:
        if key not in self._told:
            self._told.add(key)
            self._line(line)

    def _line(self, line: str) -> None:
        if self._in_line:
            self._out.write("\n")
            self._in_line = False
        self._out.write(line)
