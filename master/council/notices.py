"""What the reader of a result should know: said in full sentences, derived from how the session stands."""

from __future__ import annotations

from master.council.findings import Findings
from master.council.states import State


def notices(session: Findings) -> list[str]:
    """The warnings of a session as it stands; one that a retry has put right is gone."""
    return [*_of_opinions(session), *_of_ballots(session), *_of_synthesis(session)]


def _of_opinions(session: Findings) -> list[str]:
    told = []
    for seat in session.plan.seats:
        error = session.opinion_errors.get(seat.agent_id)
        opinion = session.opinions.get(seat.agent_id)
        if error is not None and opinion is None:
            told.append(f"{seat.agent_id} ({seat.model}) gave no answer: {error.get('detail')}")
        elif error is not None:
            told.append(
                f"{seat.agent_id} failed when retried; its earlier answer stands: {error.get('detail')}"
            )
        if opinion is not None and opinion.cut:
            told.append(f"{seat.agent_id}'s answer ends where its token limit was reached")
    return told


def _of_ballots(session: Findings) -> list[str]:
    told = []
    for reviewer, ballot in sorted(session.ballots.items(), key=lambda item: (len(item[0]), item[0])):
        if ballot.abstained:
            verb = "could not review" if ballot.failed else "abstained from the review"
            told.append(f"{reviewer} {verb}: {ballot.reason}")
    if len(session.opinions) < 2 or session.state not in (State.SYNTHESIS, State.COMPLETED):
        return told
    ranked = session.ranking.order
    if not ranked:
        return [*told, "no ballot could be counted: the answers are not ranked"]
    unseen = [agent for agent in session.opinions if agent not in ranked]
    unseen.sort(key=lambda agent: (len(agent), agent))
    return told + [f"no counted ballot judged {agent}'s answer: it is not ranked" for agent in unseen]


def _of_synthesis(session: Findings) -> list[str]:
    told = [
        f"{model} failed as chairman: {error.get('detail')}"
        for model, error in session.chairman_errors.items()
    ]
    synthesis = session.synthesis
    if synthesis is None:
        return told
    if synthesis.kind == "top_ranked":
        told.append(f"no chairman could write a synthesis: {synthesis.agent_id}'s answer stands as it is")
    elif synthesis.run < session.run and session.chairman_errors:
        told.append("the retried synthesis failed: the earlier one stands")
    if synthesis.cut:
        told.append("the synthesis ends where its token limit was reached")
    return told
