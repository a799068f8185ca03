"""A session as live panels on a terminal: one panel a seat, drawn from the state of a `Watch`."""

from __future__ import annotations

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from master.cli.plain import stage_title
from master.cli.watch import CallView, Watch

NARROWEST_PANEL = 34
LOWEST_PANEL = 5  # borders and three lines of text; below that, seats become lines
HEADER_LINES = 3
_STYLES = {"waiting": "dim", "queued": "yellow", "running": "cyan", "done": "green", "failed": "red"}


def render(watch: Watch, now: float, console: Console, *, trouble: str | None = None) -> RenderableType:
    """What the terminal shows at `now`; never higher than the terminal."""
    width, height = console.size
    stage = watch.stage or "opinions"
    header = Text(no_wrap=True, overflow="ellipsis")
    header.append(stage_title(stage), style="bold")
    header.append(f"   session {watch.session_id}   Ctrl-C cancels", style="dim")
    lines: list[RenderableType] = [header]
    if trouble:
        lines.append(Text(f"connection lost ({trouble}), trying again …", style="yellow", no_wrap=True))
    elif watch.warnings:
        lines.append(
            Text(f"warning: {watch.warnings[-1]}", style="yellow", no_wrap=True, overflow="ellipsis")
        )
    calls = watch.calls_of(stage)
    free = height - HEADER_LINES
    columns = max(1, min(len(calls), width // NARROWEST_PANEL)) if calls else 1
    rows = -(-len(calls) // columns) if calls else 1
    if free // rows < LOWEST_PANEL:
        return Group(*lines, *(_as_line(call, watch, now) for call in calls[: max(1, free)]))
    panel_height = free // rows
    panel_width = (width - 1) // columns
    grid = Table.grid(expand=True)
    for _ in range(columns):
        grid.add_column(ratio=1)
    for first in range(0, len(calls), columns):
        grid.add_row(
            *(
                _panel(call, watch, now, console, panel_width, panel_height)
                for call in calls[first : first + columns]
            )
        )
    return Group(*lines, grid)


def _facts(call: CallView, watch: Watch, now: float) -> str:
    parts = [call.state if call.position is None else f"{call.state} (place {call.position})"]
    if call.position is not None and call.wait_s is not None:
        parts.append(f"starts in about {call.wait_s:.0f} s")
    if call.node:
        parts.append(call.node)
    elapsed = call.elapsed_s(now)
    if elapsed is not None:
        parts.append(f"{elapsed:.1f} s")
    speed = call.tokens_per_second(now)
    if speed is not None:
        parts.append(f"{'' if speed[1] else '~'}{speed[0]:.1f} tok/s")
    if call.stage == "review" and call.agent_id in watch.ballots:
        parts.append(f"ballot {watch.ballots[call.agent_id]}")
    if call.restarts and call.note and call.state in ("queued", "running"):
        parts.append(call.note)
    return " · ".join(parts)


def _title(call: CallView, watch: Watch) -> Text:
    title = Text(call.agent_id, style="bold")
    title.append(f" {call.model}", style="not bold")
    if call.agent_id in watch.personas:
        title.append(f" as {watch.personas[call.agent_id]}", style="italic not bold")
    return title


def _panel(call: CallView, watch: Watch, now: float, console: Console, width: int, height: int) -> Panel:
    inner_width, inner_height = max(10, width - 4), height - 2
    style = _STYLES[call.state]
    if call.state == "failed":
        body = Text(call.note or "failed", style="red")
    elif call.text:
        body = _tail(call.text, console, inner_width, inner_height, "dim" if call.stage == "review" else "")
    elif call.thinking:
        body = _tail(call.thinking, console, inner_width, inner_height, "dim italic")
    else:
        body = Text(call.note or "…", style="dim")
    return Panel(
        body,
        title=_title(call, watch),
        title_align="left",
        subtitle=Text(_facts(call, watch, now), style=style),
        subtitle_align="right",
        border_style=style,
        height=height,
    )


def _as_line(call: CallView, watch: Watch, now: float) -> Text:
    line = _title(call, watch)
    line.append(f"  {_facts(call, watch, now)}", style=_STYLES[call.state])
    line.no_wrap, line.overflow = True, "ellipsis"
    return line


def _tail(text: str, console: Console, width: int, height: int, style: str) -> Text:
    """The last lines that fit. Only the end is wrapped: an answer grows, the panel does not."""
    end = Text(text[-width * height :], style=style)
    lines = end.wrap(console, width)[-height:]
    return Text("\n").join(lines)
