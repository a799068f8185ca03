"""What the simulator tells of a cluster is what the real programs do, or its figures are worth nothing."""

from __future__ import annotations

import pytest

from tests.simulation import live, recording

WRONG_BY = 0.1


@pytest.mark.long
@pytest.mark.alone
@pytest.mark.parametrize(
    ("seed", "councils", "every_s"), [(3, 8, 2.0), (5, 12, 1.2)], ids=["calm", "crowded"]
)
async def test_the_simulation_predicts_a_recorded_run_within_a_tenth(
    seed: int, councils: int, every_s: float
) -> None:
    recorded = await live.record(live.questions(seed, councils, every_s))
    told = recording.simulated(recorded)
    assert recorded.loads >= 8, "without model switches there is little to predict"
    assert told.makespan_s == pytest.approx(recorded.makespan_s, rel=WRONG_BY)
    assert told.mean_s == pytest.approx(recorded.mean_s, rel=WRONG_BY)
