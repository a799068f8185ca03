"""What becomes of a job that failed, how long it stays away, and what a day may cost."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from common import errors
from common.errors import CouncilError, InvalidRequestError, SettingsError
from master.background.caps import Caps, midnight_after, midnight_before
from master.background.catalogue import Catalogue
from master.background.cron import next_after
from master.background.verdict import LONGEST_PAUSE_S, Verdict, judge

TYPES = "tests.service.background.scripted:TYPES"


def verdict(error: CouncilError, *, attempts: int = 0, pauses: int = 0, chance: float = 0.5) -> Verdict:
    return judge(error, attempts=attempts, pauses=pauses, max_attempts=3, first_pause_s=4.0, chance=chance)


SURROUNDINGS = [
    errors.NodeUnreachableError,
    errors.NodeFrozenError,
    errors.NodeDrainingError,
    errors.EngineUnavailableError,
    errors.EngineBusyError,
    errors.QueueFullError,
    errors.QueueTimeoutError,
    errors.PreemptedError,
    errors.ModelUnavailableError,
    errors.ModelNotFoundError,
    errors.StorageBusyError,
    errors.StorageFullError,
]


@pytest.mark.parametrize("kind", SURROUNDINGS, ids=lambda kind: kind.code)
def test_surroundings_that_are_away_are_waited_for_without_end(kind: type[CouncilError]) -> None:
    for pauses in (0, 5, 10_000):
        found = verdict(kind(), attempts=2, pauses=pauses)
        assert (found.kind, found.attempts, found.pauses) == ("pause", 2, pauses + 1)
        assert found.wait_s <= LONGEST_PAUSE_S


@pytest.mark.parametrize(
    "kind",
    [errors.EngineFailedError, errors.StreamCutError, errors.ModelOutputError, errors.GenerationTimeoutError],
    ids=lambda kind: kind.code,
)
def test_what_may_go_better_is_tried_again_until_its_attempts_are_used_up(kind: type[CouncilError]) -> None:
    assert [verdict(kind(), attempts=before).kind for before in range(3)] == ["retry", "retry", "dead"]


@pytest.mark.parametrize(
    "kind",
    [errors.ContextOverflowError, errors.InvalidRequestError, errors.NotFoundError, errors.InternalError],
    ids=lambda kind: kind.code,
)
def test_poison_is_a_dead_letter_at_once(kind: type[CouncilError]) -> None:
    assert verdict(kind()).kind == "dead"


def test_every_error_of_the_tree_has_a_verdict() -> None:
    for kind in errors.BY_CODE.values():
        assert verdict(kind()).kind in ("pause", "retry", "dead")
        assert (verdict(kind()).kind == "dead") <= (not issubclass(kind, errors.RetryableError))


def test_waits_double_up_to_ten_minutes_and_are_spread() -> None:
    waits = [verdict(errors.EngineFailedError(), attempts=0, chance=chance).wait_s for chance in (0.0, 0.999)]
    assert waits == [pytest.approx(2.0), pytest.approx(4.0, rel=0.01)]
    longer = [verdict(errors.EngineBusyError(), pauses=number, chance=1.0).wait_s for number in range(12)]
    assert longer[:4] == [4.0, 8.0, 16.0, 32.0]
    assert longer[-1] == LONGEST_PAUSE_S


def test_an_engine_that_names_a_time_is_heard() -> None:
    assert verdict(errors.QueueFullError(retry_after_s=90.0)).wait_s == 90.0


def test_an_engine_down_for_an_hour_costs_few_tries_and_no_attempt() -> None:
    """The clock is simulated: what 100 jobs of one type try while their type waits as one."""
    down_until, now, pauses, tries, attempts = 3600.0, 0.0, 0, 0, 0
    while now < down_until:
        tries += 4  # as many as run at once
        found = verdict(errors.EngineUnavailableError(), attempts=attempts, pauses=pauses, chance=0.5)
        attempts, pauses = found.attempts, found.pauses
        now += found.wait_s
    assert attempts == 0
    assert tries <= 4 * 20
    assert now - down_until <= LONGEST_PAUSE_S


def test_a_day_ends_at_midnight_of_the_wall() -> None:
    late = datetime(2026, 3, 28, 23, 59, 59)
    assert midnight_before(late) == datetime(2026, 3, 28)
    assert midnight_after(late) == datetime(2026, 3, 29)


def test_caps_say_what_holds_work_back() -> None:
    caps = Caps(calls=10, tokens=1000)
    assert caps.reason(calls=9, tokens=999) is None
    assert "BG_MAX_CALLS_PER_DAY" in (caps.reason(calls=10, tokens=0) or "")
    assert "BG_MAX_TOKENS_PER_DAY" in (caps.reason(calls=0, tokens=1000) or "")
    assert Caps().reason(calls=10**9, tokens=10**9) is None
    assert Caps(calls=0).reason(calls=0, tokens=0) is not None


def test_settings_change_how_urgent_a_type_is() -> None:
    catalogue = Catalogue.of(priorities=["nothing=90", "long=0"], extensions=[TYPES])
    assert catalogue.new("nothing", {}).priority == 90
    assert catalogue.new("nothing", {}, priority=3).priority == 3
    assert catalogue.new("long", {}).long


@pytest.mark.parametrize(
    ("priorities", "extensions", "said"),
    [
        pytest.param(["nothing"], [TYPES], "TYPE=NUMBER", id="no number"),
        pytest.param(["nothing=-1"], [TYPES], "TYPE=NUMBER", id="negative"),
        pytest.param(["nowhere=1"], [TYPES], "job types are", id="unknown type"),
        pytest.param([], [TYPES, TYPES], "two job types", id="twice"),
        pytest.param([], ["no.such.module:TYPES"], "cannot be loaded", id="no module"),
        pytest.param([], ["tests.service.background.scripted:NOTHING"], "not a list", id="no list"),
    ],
)
def test_settings_that_name_wrong_types_are_refused(
    priorities: list[str], extensions: list[str], said: str
) -> None:
    with pytest.raises(SettingsError, match=said):
        Catalogue.of(priorities=priorities, extensions=extensions)


def test_a_schedules_next_time_is_on_the_clock_of_the_wall() -> None:
    now = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
    found = next_after("30 3 * * *", now)
    assert found > now
    assert found - now <= timedelta(days=1)
    assert (found.astimezone().hour, found.astimezone().minute) == (3, 30)
    assert next_after("30 3 * * *", found) - found == timedelta(days=1)


@pytest.mark.parametrize("cron", ["", "* * * *", "61 * * * *", "* * * * * *", "a b c d e", "0 0 31 2 *"])
def test_what_is_no_schedule_is_refused(cron: str) -> None:
    with pytest.raises(InvalidRequestError, match="is no schedule"):
        next_after(cron, datetime(2026, 5, 4, tzinfo=UTC))
