"""The order of calls that wait for one model in one class: pure.

Sessions take turns (start-time fair queueing with a cost of one per call): a council of sixteen that came
first does not make a council of one wait for all its calls. Within a session the order is that of arrival. A
call that is put back takes the very place it had.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator

Ticket = tuple[float, int, str, str]
"""Turn, order of arrival, call id, session: what waiting calls are sorted by."""


class FairQueue:
    """Call ids in the order in which they are due. All operations cost a binary search and a memory move."""

    __slots__ = ("_order", "_sessions", "_turn")

    def __init__(self) -> None:
        self._order: list[Ticket] = []
        # Turn of the last call and calls that wait, of the sessions that have one: they come and go.
        self._sessions: dict[str, tuple[float, int]] = {}
        self._turn = 0.0

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[str]:
        return (ticket[2] for ticket in self._order)

    def __getitem__(self, index: int) -> str:
        return self._order[index][2]

    def join(self, call_id: str, session: str, arrival: int) -> Ticket:
        """Wait at the end of the session's own calls. `arrival` is unique and rises. Returns its ticket."""
        last, waiting = self._sessions.get(session, (0.0, 0))
        turn = max(self._turn, last) + 1.0
        self._sessions[session] = (turn, waiting + 1)
        ticket = (turn, arrival, call_id, session)
        insort(self._order, ticket)
        return ticket

    def join_first(self, call_id: str, arrival: int) -> Ticket:
        """Be the next to be served, out of any session's turn. Returns the ticket."""
        turn = self._order[0][0] - 1.0 if self._order else self._turn
        ticket = (turn, arrival, call_id, "")
        self.put_back(ticket)
        return ticket

    def put_back(self, ticket: Ticket) -> None:
        """Take the place again that this ticket stood for."""
        turn, _, _, session = ticket
        last, waiting = self._sessions.get(session, (turn, 0))
        self._sessions[session] = (max(last, turn), waiting + 1)
        insort(self._order, ticket)

    def leave(self, ticket: Ticket, *, served: bool) -> None:
        """Take a call out; `served` moves the turn on, so that newcomers queue behind who waited."""
        at = bisect_left(self._order, ticket)
        if at >= len(self._order) or self._order[at] != ticket:
            raise KeyError(ticket[2])
        del self._order[at]
        if served:
            self._turn = max(self._turn, ticket[0] - 1.0)
        last, waiting = self._sessions.pop(ticket[3])
        if waiting > 1:
            self._sessions[ticket[3]] = (last, waiting - 1)

    @property
    def sessions(self) -> int:
        """How many are kept in mind."""
        return len(self._sessions)

    @property
    def first_ticket(self) -> Ticket:
        return self._order[0]

    def position(self, ticket: Ticket) -> int:
        """From 1."""
        return bisect_left(self._order, ticket) + 1
