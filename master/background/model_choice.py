"""Which model does background work when the call names none: pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from master.background.candidates import BACKGROUND_MODELS, DEFAULT_BACKGROUND_MODEL
from master.cluster import model_names


@dataclass(frozen=True, slots=True)
class Offered:
    """A model of the engine that was chosen. `size` in bytes."""

    name: str
    size: int
    practice: bool = False


@dataclass(frozen=True, slots=True)
class Chosen:
    """`note` says why it is not the model that was asked for; `None` when it is."""

    name: str
    note: str | None = None


def choose_model(offered: Sequence[Offered], wanted: str | None) -> Chosen | None:
    """The wanted model, else the first of the candidates (B1) that is there, else the smallest one.

    `wanted` is `OLLAMA_BACKGROUND_MODEL`. A practice model, whose text means nothing, comes last. `None`
    where nothing is offered.
    """
    names = [one.name for one in offered]
    found = model_names.find(wanted or DEFAULT_BACKGROUND_MODEL, names)
    if found is not None:
        return Chosen(found)
    missing = (
        f"OLLAMA_BACKGROUND_MODEL={wanted} is not there"
        if wanted
        else f"{DEFAULT_BACKGROUND_MODEL}, the default, is not there"
    )
    for candidate in BACKGROUND_MODELS:
        found = model_names.find(candidate.name, names)
        if found is not None:
            return Chosen(found, f"{missing}; {found} is the next that suits background work")
    if not offered:
        return None
    least = min(offered, key=lambda one: (one.practice, one.size, one.name))
    what = "a practice model, whose text means nothing" if least.practice else "the smallest model there"
    return Chosen(least.name, f"{missing}; {least.name} is {what}")
