"""A recorded run of the real programs, and the same work for the simulator: pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import mean

from common.usage import STAGES, StageName
from master.council import calls as council_calls
from tests.simulation.physics import Cluster, NodeSpec, SimCall
from tests.simulation.policies import Ours
from tests.simulation.simulator import Report, Simulation


@dataclass(frozen=True, slots=True)
class RecordedCall:
    """One call as it was: tokens as the engine counted them, `guessed_prompt` as the master guessed."""

    stage: StageName
    agent_id: str
    model: str
    node: str
    prompt_tokens: int
    answer_tokens: int
    guessed_prompt: float


@dataclass(frozen=True, slots=True)
class RecordedSession:
    """Seconds from the begin of the run to its question, and from its question to its end."""

    session_id: str
    asked_s: float
    took_s: float
    seats: Sequence[str]
    chairman: str
    calls: Sequence[RecordedCall]


@dataclass(frozen=True, slots=True)
class Recording:
    """`specs`: what the nodes were, as their engines were told to behave."""

    specs: Sequence[NodeSpec]
    sessions: Sequence[RecordedSession]
    loads: int

    @property
    def makespan_s(self) -> float:
        return max(one.asked_s + one.took_s for one in self.sessions)

    @property
    def mean_s(self) -> float:
        """Mean duration of a session."""
        return mean(one.took_s for one in self.sessions)


@dataclass(slots=True)
class Prediction:
    makespan_s: float
    mean_s: float
    loads: int


@dataclass(slots=True)
class _Replay:
    """Gives the calls of a recorded session stage by stage, as the session core does."""

    session: RecordedSession
    stages: dict[StageName, list[SimCall]] = field(default_factory=dict)
    left: int = 0
    at: int = 0
    ended_s: float = 0.0

    def __post_init__(self) -> None:
        made: dict[StageName, list[SimCall]] = defaultdict(list)
        for call in self.session.calls:
            made[call.stage].append(self._sim(call))
        self.stages = dict(made)

    def start(self) -> list[SimCall]:
        return self._issue()

    def after(self, now: float) -> list[SimCall]:
        self.left -= 1
        self.ended_s = now
        if self.left:
            return []
        self.at += 1
        return self._issue()

    def _issue(self) -> list[SimCall]:
        due = self.stages.get(STAGES[self.at], []) if self.at < len(STAGES) else []
        self.left = len(due)
        return due

    def _sim(self, call: RecordedCall) -> SimCall:
        session = self.session
        expected = {
            "opinions": council_calls.EXPECTED_OPINION,
            "review": council_calls.EXPECTED_VOTE * (len(session.seats) - 1),
            "synthesis": council_calls.EXPECTED_SYNTHESIS,
        }[call.stage]
        return SimCall(
            f"{session.session_id}/{call.stage}/{call.agent_id}",
            call.model,
            session_id=session.session_id,
            prefix_key=session.session_id,
            prompt_tokens=call.prompt_tokens,
            answer_tokens=call.answer_tokens,
            guessed=(call.guessed_prompt, expected),
            keeps=council_calls.kept_models(call.stage, session.seats, session.chairman),
        )


def simulated(recording: Recording) -> Prediction:
    """The same questions at the same times to a simulated cluster of the same nodes, known as well."""
    replays = {one.session_id: _Replay(one) for one in recording.sessions}
    arrivals = [(replay.session.asked_s, call) for replay in replays.values() for call in replay.start()]

    def more(call: SimCall, now: float) -> Iterable[SimCall]:
        return replays[call.session_id or ""].after(now)

    policy = Ours(recording.specs)
    report: Report = Simulation(Cluster(list(recording.specs)), policy, arrivals=arrivals, more=more).run()
    return Prediction(
        report.makespan,
        mean(one.ended_s - one.session.asked_s for one in replays.values()),
        report.loads,
    )
