"""One measured figure, and the table of them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

_CLUSTERS = (1, 3, 10, 30, 100, 300, 1000)


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured. Rounds are interleaved over what is compared; figures are medians over them.

    `cluster_councils`: the most that are simulated on a cluster, which has two a node otherwise.
    """

    rounds: int
    calls: int
    stream_s: float
    council_rounds: int
    starts: int
    chats: int
    mixed_rounds: int
    clusters: tuple[int, ...]
    cluster_councils: int

    @classmethod
    def of(cls, *, long: bool) -> Scale:
        return (
            cls(12, 1000, 3.0, 5, 9, 100, 5, _CLUSTERS, 2000)
            if long
            else cls(4, 300, 1.0, 2, 3, 16, 2, _CLUSTERS, 300)
        )


@dataclass(frozen=True, slots=True)
class Figure:
    """`value` beside `peer_value` (a bound or a peer of the same run, in the same unit).

    `target` is the most that `judged` may be: the value, its ratio to the peer's, or the excess over
    the peer's. `spread` is the least and the most of the rounds. With a `row` it stands in a table of its
    own, in the column `what`.
    """

    what: str
    value: float
    unit: str
    peer: str = ""
    peer_value: float | None = None
    target: float | None = None
    judged: Literal["value", "ratio", "more"] = "value"
    spread: tuple[float, float] | None = None
    row: str = ""

    @property
    def ratio(self) -> float | None:
        # A difference that drowned in the noise is no measure for another one.
        return self.value / self.peer_value if self.peer_value and self.peer_value > 0 else None

    @property
    def met(self) -> bool | None:
        """None where nothing is asked for, or where the peer to compare with is missing."""
        more = None if self.peer_value is None else self.value - self.peer_value
        judged = {"value": self.value, "ratio": self.ratio, "more": more}[self.judged]
        return None if self.target is None or judged is None else judged <= self.target

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "ratio": self.ratio, "met": self.met}


def median(values: Iterable[float]) -> float:
    return statistics.median(values)


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of them (0 to 1) do not exceed: the nearest rank."""
    ordered = sorted(values)
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)]


def of_rounds(
    what: str,
    values: Sequence[float],
    unit: str,
    *,
    peers: tuple[str, Sequence[float]] | None = None,
    **rest: Any,
) -> Figure:
    """The median over rounds, with its spread, beside the median of the peer's rounds."""
    peer, peer_values = peers or ("", ())
    return Figure(
        what,
        median(values),
        unit,
        peer=peer if peer_values else "",
        peer_value=median(peer_values) if peer_values else None,
        spread=(min(values), max(values)),
        **rest,
    )


def scaled(what: str, values: Sequence[float], slowness: Sequence[float], target: float) -> Figure:
    """Milliseconds as they would be on the machine that the target was set for, from how many times slower
    this one was in the same round.
    """
    made = [value / slower for value, slower in zip(values, slowness, strict=True)]
    return of_rounds(f"{what}, at the targets' machine speed", made, "ms", target=target)


def tables(figures: Iterable[Figure]) -> str:
    """Markdown that reads well in a terminal, too: a figure a line, then those that have a row."""
    made = list(figures)
    found = []
    if listed := [one for one in made if not one.row]:
        head = ("what", "figure (rounds)", "bound or peer in the same run", "ratio", "target", "met?")
        found.append(_table([head, *map(_row, listed)]))
    if placed := [one for one in made if one.row]:
        found.append(_table(_grid(placed)))
    return "\n\n".join(found)


def _grid(figures: Iterable[Figure]) -> list[tuple[str, ...]]:
    columns: dict[str, None] = {}
    cells: dict[str, dict[str, str]] = {}
    for one in figures:
        columns[one.what] = None
        cells.setdefault(one.row, {})[one.what] = f"{_number(one.value)} {one.unit}".strip()
    return [
        ("", *columns),
        *((row, *(found.get(what, "") for what in columns)) for row, found in cells.items()),
    ]


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    pad: Callable[[Sequence[str]], str] = lambda cells: (  # noqa: E731
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"
    )
    return "\n".join([pad(rows[0]), pad(["-" * width for width in widths]), *map(pad, rows[1:])])


def _row(one: Figure) -> tuple[str, ...]:
    figure = f"{_number(one.value)} {one.unit}".strip()
    if one.spread is not None and one.spread[0] != one.spread[1]:
        figure += f" ({_number(one.spread[0])} to {_number(one.spread[1])})"
    peer = "" if one.peer_value is None else f"{one.peer} {_number(one.peer_value)} {one.unit}"
    target = ""
    if one.target is not None:
        target = {
            "value": f"≤ {one.target:g} {one.unit}".strip(),
            "ratio": f"≤ {one.target:g} of {one.peer}",
            "more": f"≤ {one.target:g} {one.unit} more",
        }[one.judged]
    met = {None: "", True: "yes", False: "NO"}[one.met]
    return (one.what, figure, peer, "" if one.ratio is None else f"{one.ratio:.3g}", target, met)


def _number(value: float) -> str:
    size = abs(value)
    if size >= 100 or value == int(value):
        return f"{value:.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.2f}" if size >= 1 else f"{value:.3f}"
