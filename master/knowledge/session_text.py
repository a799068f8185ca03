"""What of a council's session is archived: the question and the final answer. Pure.

Opinions and ballots are not: they say the same several times over, also what the council turned down, and an
archive of them would keep claims that were not accepted. Who was missing is told in a note beside the text.
"""

from __future__ import annotations

from typing import Any

from master.council.view import CouncilSession
from master.knowledge.messages import Said, said

ENDED = frozenset({"completed", "failed", "cancelled"})


def messages_of(session: CouncilSession) -> tuple[Said, ...]:
    """Question and final answer; nothing for a session that has no answer."""
    answer = session.answer
    if answer is None or not answer.strip():
        return ()
    return said([("user", session.question), ("assistant", answer)])


def note_of(session: CouncilSession) -> dict[str, Any]:
    """What a reader should know of the answer's worth."""
    return {
        "session_id": session.id,
        "result": session.result,
        "missing_agents": list(session.missing_agents),
        "contested": session.contested,
        "practice": session.practice,
        "answered_by": session.synthesis.model if session.synthesis else None,
    }
