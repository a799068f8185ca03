"""Whether the simulator tells what a real cluster will do: a recorded run beside its simulation."""

from __future__ import annotations

from tests.bench.figures import Figure, Scale
from tests.simulation import live, recording

# Councils that overlap, with model switches on three unequal nodes. What becomes of a crowd may hang on
# milliseconds; with these questions it does not: however late within 0.1 s, they end within 6 % of the time.
QUESTIONS = (3, 8, 2.0)
MOST_WRONG = 10.0


async def run(scale: Scale) -> list[Figure]:
    del scale  # one run is long enough
    recorded = await live.record(live.questions(*QUESTIONS))
    told = recording.simulated(recorded)
    what = f"{len(recorded.sessions)} councils on {len(recorded.specs)} nodes"
    return [
        Figure(f"{what}: until all have ended", recorded.makespan_s, "s", "simulated", told.makespan_s),
        Figure(
            f"{what}: the simulation is wrong by",
            100 * abs(told.makespan_s / recorded.makespan_s - 1),
            "%",
            target=MOST_WRONG,
        ),
        Figure(f"{what}: mean duration", recorded.mean_s, "s", "simulated", told.mean_s),
        Figure(
            f"{what}: the simulation of that is wrong by",
            100 * abs(told.mean_s / recorded.mean_s - 1),
            "%",
            target=MOST_WRONG,
        ),
        Figure(f"{what}: model loads", recorded.loads, "", "simulated", told.loads),
    ]
