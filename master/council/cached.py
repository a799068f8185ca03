"""Answering the same question again without asking the models: pure, and only where the asker said so."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime

from common.usage import SessionLatencyStats, SessionTokenUsage
from master.council.plan import SessionPlan
from master.council.view import CouncilSession


def key_of(plan: SessionPlan) -> str:
    """Equal for plans that ask the same models the same thing; ids and times do not count."""
    asked = plan.to_json()
    for name in ("session_id", "conversation_id", "created_at", "contexts"):
        del asked[name]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def copy_of(earlier: CouncilSession, plan: SessionPlan, now: float) -> CouncilSession:
    """The earlier result under the new session's id, marked, with no tokens and no time spent."""
    return earlier.model_copy(
        update={
            "id": plan.session_id,
            "conversation_id": plan.conversation_id,
            "cached": True,
            "token_usage": SessionTokenUsage(),
            "latency_stats": SessionLatencyStats(),
            "created_at": datetime.fromtimestamp(plan.created_at, UTC),
            "completed_at": datetime.fromtimestamp(now, UTC),
        }
    )
