"""The order of calls that wait for one model in one class: pure.

Sessions take turns (start-time fair queueing with a cost of one per call): a council of sixteen that came
first does not make a council of one wait for all its calls. Within a session the order is that of arrival. A
call that is put back takes the very place it had.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator

Ticket = tuple[float, int, str]
"""Turn, order of arrival, call id: what waiting calls are sorted by."""


class FairQueue:
    """Call ids in the order in which they are due. All operations cost a binary search and a memory move."""

    __slots__ = ("_last_turn", "_order", "_turn")

    def __init__(self) -> None:
        self._order: list[Ticket] = []
        self._last_turn: dict[str, float] = {}
        self._turn = 0.0

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[str]:
        return (call_id for _, _, call_id in self._order)

    def __getitem__(self, index: int) -> str:
        return self._order[index][2]

    def join(self, call_id: str, session: str, arrival: int) -> Ticket:
        """Wait at the end of the session's own calls. `arrival` is unique and rises. Returns its ticket."""
        turn = max(self._turn, self._last_turn.get(session, 0.0)) + 1.0
        self._last_turn[session] = turn
        ticket = (turn, arrival, call_id)
        insort(self._order, ticket)
        return ticket

    def join_first(self, call_id: str, arrival: int) -> Ticket:
        """Be the next to be served. Returns the ticket."""
        turn = self._order[0][0] - 1.0 if self._order else self._turn
        ticket = (turn, arrival, call_id)
        insort(self._order, ticket)
        return ticket

    def put_back(self, ticket: Ticket) -> None:
        """Take the place again that this ticket stood for."""
        insort(self._order, ticket)

    def leave(self, ticket: Ticket, *, served: bool) -> None:
        """Take a call out; `served` moves the turn on, so that newcomers queue behind who waited."""
        at = bisect_left(self._order, ticket)
        if at >= len(self._order) or self._order[at] != ticket:
            raise KeyError(ticket[2])
        del self._order[at]
        if served:
            self._turn = max(self._turn, ticket[0] - 1.0)
        if not self._order:
            self._last_turn.clear()  # sessions come and go; the turn itself stays, for tickets put back

    @property
    def first_ticket(self) -> Ticket:
        return self._order[0]

    def position(self, ticket: Ticket) -> int:
        """From 1."""
        return bisect_left(self._order, ticket) + 1
