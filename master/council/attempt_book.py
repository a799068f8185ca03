"""The attempts of a session, what they amount to call by call, and the next call that follows. Pure."""

from __future__ import annotations

from common.usage import StageName
from master.council.ballots import Ranked
from master.council.calls import CallWriter, Written
from master.council.findings import Findings
from master.council.plan import AttemptRecord
from master.council.standing import Standing, stand

BALLOT_REPAIRS = 1


class AttemptBook:
    """Attempts that ended, under (run, stage, agent)."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._attempts: dict[tuple[int, StageName, str], list[AttemptRecord]] = {}
        self._writer = CallWriter(findings.plan)
        self._written: dict[tuple[StageName, str, int], Written] = {}

    def add(self, record: AttemptRecord) -> None:
        self._attempts.setdefault(record.key, []).append(record)

    def has(self, record: AttemptRecord) -> bool:
        return any(one.attempt == record.attempt for one in self._attempts.get(record.key, ()))

    def turn_over(self) -> None:
        """A stage begins: the prompts of the last one are not needed again."""
        self._written.clear()

    def standing(self, stage: StageName, agent_id: str, model: str) -> Standing[str]:
        """What the attempts of this run amount to: of an opinion, or of one chairman's synthesis."""
        return stand([one for one in self._of(stage, agent_id) if one.model == model], _as_it_is)

    def ballot_standing(self, reviewer: str) -> Standing[tuple[Ranked, ...]]:
        findings = self._findings

        def read(text: str) -> tuple[Ranked, ...]:
            return self._writer.read_ballot(text, findings.run, reviewer, list(findings.answers))

        return stand(self._of("review", reviewer), read, repairs=BALLOT_REPAIRS)

    def write(self, stage: StageName, agent_id: str) -> Written:
        """The call of an open seat, as its standing demands; kept, for prompts are long."""
        number = max((one.attempt for one in self._of(stage, agent_id)), default=0) + 1
        key = (stage, agent_id, number)
        if key not in self._written:
            self._written[key] = self._write_anew(stage, agent_id, number)
        return self._written[key]

    def _write_anew(self, stage: StageName, agent_id: str, number: int) -> Written:
        findings, writer = self._findings, self._writer
        run, answers = findings.run, findings.answers
        if stage == "review":
            return writer.review(run, agent_id, number, self.ballot_standing(agent_id), answers)
        if stage == "opinions":
            seat = findings.plan.seat(agent_id)
            assert seat is not None
            return writer.opinion(run, seat, number, self.standing(stage, agent_id, seat.model))
        model = findings.presiding or findings.plan.chairman
        standing = self.standing(stage, agent_id, model)
        return writer.synthesis(run, model, number, standing, answers, findings.ballots, findings.ranking)

    def _of(self, stage: StageName, agent_id: str) -> list[AttemptRecord]:
        return self._attempts.get((self._findings.run, stage, agent_id), [])


def _as_it_is(text: str) -> str:
    return text
