"""What `/health` costs the database, and how soon it tells the truth."""

from __future__ import annotations

import asyncio

from common.errors import StorageFullError
from master.state.pulse import Pulse


class Database:
    """Counts the writes; `full` refuses them. Each takes two turns of the loop and `takes_s` by its clock."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.takes_s = 0.01
        self.writes = 0
        self.full = False
        self.pulse = Pulse(self.write, clock=lambda: self.now_s)

    async def write(self) -> None:
        self.writes += 1
        await asyncio.sleep(0)
        self.now_s += self.takes_s
        await asyncio.sleep(0)
        if self.full:
            raise StorageFullError("no space")

    async def asked_by(self, number: int) -> list[str]:
        return list(await asyncio.gather(*(self.pulse.state() for _ in range(number))))


async def test_a_thousand_who_ask_within_a_second_cost_one_write() -> None:
    database = Database()
    assert set(await database.asked_by(500)) == {"connected"}
    database.now_s += 0.9
    assert set(await database.asked_by(500)) == {"connected"}
    assert database.writes == 1


async def test_a_disk_that_fills_up_is_told_within_a_second_and_space_at_once() -> None:
    database = Database()
    assert await database.pulse.state() == "connected"
    database.full = True
    database.now_s += 1.01
    assert await database.pulse.state() == "storage_full"
    database.full = False
    assert await database.pulse.state() == "connected"


async def test_all_who_wait_for_a_database_that_is_away_wait_once() -> None:
    database = Database()
    database.full, database.takes_s = True, 10.0
    assert set(await database.asked_by(20)) == {"storage_full"}
    assert database.writes == 1
    assert await database.pulse.state() == "storage_full"
    assert database.writes == 2


async def test_who_hangs_up_takes_nobody_elses_answer_along() -> None:
    database = Database()
    first = asyncio.create_task(database.pulse.state())
    second = asyncio.create_task(database.pulse.state())
    await asyncio.sleep(0)
    first.cancel()
    assert await second == "connected"
