"""How a model's name is matched: users, Ollama and files spell the same model differently."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

# The user's spelling on the left names Ollama's own tag on the right.
ALIASES = {"phi3.5:mini": "phi3.5", "phi-3-mini": "phi3", "phi3:mini": "phi3"}


@lru_cache(maxsize=1024)
def canonical(name: str) -> str:
    """Fold case, aliases and the default tag: `Phi3.5:mini`, `phi3.5` and `phi3.5:latest` are one model."""
    folded = name.strip().lower()
    folded = folded.removesuffix(":latest")
    return ALIASES.get(folded, folded)


def find(name: str, offered: Iterable[str]) -> str | None:
    """The offered spelling of a model, an exact one first; `None` when it is not offered."""
    names = list(offered)
    if name in names:
        return name
    wanted = canonical(name)
    return next((one for one in names if canonical(one) == wanted), None)
