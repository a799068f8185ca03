"""Sessions take turns in a queue, and are forgotten with their last call."""

from __future__ import annotations

import itertools
from collections import deque

from master.cluster.fair_queue import FairQueue, Ticket


def test_a_queue_that_is_never_empty_keeps_only_sessions_that_wait_in_mind() -> None:
    queue, waiting = FairQueue(), deque[Ticket]()
    for number in range(1000):
        waiting.append(queue.join(f"call {number}", f"job {number}", number))
        if number >= 3:
            queue.leave(waiting.popleft(), served=number % 2 == 0)
        assert queue.sessions == len(queue)
    put_back = queue.join("one", "job", 1001)
    queue.leave(put_back, served=True)
    queue.put_back(put_back)
    assert queue.sessions == len(queue)


def test_a_session_that_asks_one_thing_after_another_is_not_put_behind_a_flood_of_new_ones() -> None:
    """A job of many calls beside jobs of one call each, of which there are always three in the queue."""
    queue, arrivals = FairQueue(), itertools.count()
    tickets: dict[str, Ticket] = {}

    def join(call_id: str, session: str) -> None:
        tickets[call_id] = queue.join(call_id, session, next(arrivals))

    for number in range(3):
        join(f"flood {number}", f"flood {number}")
    join("step 0", "job")
    served, steps = [], 1
    for number in range(3, 43):
        first = queue[0]
        queue.leave(tickets[first], served=True)
        served.append(first)
        if first.startswith("step"):
            join(f"step {steps}", "job")
            steps += 1
        else:
            join(f"flood {number}", f"flood {number}")
    assert sum(one.startswith("step") for one in served) == 10


def test_a_burst_of_one_session_is_served_in_turn_with_others() -> None:
    queue, tickets = FairQueue(), {}
    for number, (call_id, session) in enumerate(
        [("a1", "a"), ("a2", "a"), ("a3", "a"), ("b1", "b"), ("b2", "b")]
    ):
        tickets[call_id] = queue.join(call_id, session, number)
    assert list(queue) == ["a1", "b1", "a2", "b2", "a3"]
