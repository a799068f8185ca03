"""Who sits in the council when the question does not say: pure.

The recommended models (A10) are known by what they are good for; of the rest, size decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from master.cluster import model_names


@dataclass(frozen=True, slots=True)
class Recommended:
    """One model worth having. `size` is bytes on disk."""

    name: str
    size: int
    role: str
    suits: str


RECOMMENDED: tuple[Recommended, ...] = (
    Recommended("qwen2.5:0.5b", 350_000_000, "opinions", "fast opinions"),
    Recommended("llama3.2:1b", 1_300_000_000, "review", "reviews"),
    Recommended("gemma2:2b", 1_600_000_000, "expert", "precise expert"),
    Recommended("phi3.5:mini", 2_200_000_000, "chairman", "chairman"),
    Recommended("tinyllama", 600_000_000, "backup", "light backup"),
)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model of the cluster: its name there, its size in bytes, whether a node has it loaded."""

    name: str
    size: int
    resident: bool
    can_generate: bool = True
    practice: bool = False


def choose_agents(candidates: Sequence[Candidate], count: int) -> list[str]:
    """`count` models for the seats: different ones first (resident, then small ones), then over again.

    Different models make a better council than one model several times (research: diverse teams), and a
    council of one seat is no council: a single model sits several times. A practice model sits only where
    the cluster has no other: its text means nothing.
    """
    able = sorted(_serious(candidates), key=lambda one: (not one.resident, one.size, one.name))
    return [able[number % len(able)].name for number in range(count)] if able else []


def choose_chairman(
    candidates: Sequence[Candidate], seats: Sequence[str], preferred: str | None
) -> str | None:
    """The configured model where the cluster has it, else the recommended chairman, else the largest seat."""
    names = [one.name for one in candidates if one.can_generate]
    for wish in (preferred, "phi3.5"):
        found = model_names.find(wish, names) if wish else None
        if found is not None:
            return found
    seated = [one for one in candidates if one.name in seats and one.can_generate]
    if seated:
        return max(seated, key=lambda one: (one.size, one.name)).name
    return seats[0] if seats else None


def _serious(candidates: Sequence[Candidate]) -> list[Candidate]:
    able = [one for one in candidates if one.can_generate]
    return [one for one in able if not one.practice] or able
