"""The models worth having, as API and command list them; no master has to run for that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from common.gguf_catalogue import find_source
from master.background.candidates import BACKGROUND_MODELS, DEFAULT_BACKGROUND_MODEL, BackgroundModel
from master.cluster import model_names
from master.council.choice import RECOMMENDED, Recommended

Use = Literal["council", "background"]


def recommended(use: Use, offered: Sequence[str] | None, configured: str | None = None) -> dict[str, Any]:
    """`{"models": [...]}` for a council or for background work: the role of each, its licence, its size.

    `offered` are the models of the cluster; `None` where nobody knows, then `installed` is `None` too.
    `configured` is the background model that was chosen, told as `configured` beside the list.
    """
    if use == "council":
        return {"models": [_entry(one, offered) for one in RECOMMENDED]}
    return {
        "models": [
            {**_entry(one, offered), "ram": one.ram, "default": one.name == DEFAULT_BACKGROUND_MODEL}
            for one in BACKGROUND_MODELS
        ],
        "configured": configured or DEFAULT_BACKGROUND_MODEL,
    }


def _entry(one: Recommended | BackgroundModel, offered: Sequence[str] | None) -> dict[str, Any]:
    source = find_source(one.name)
    return {
        "name": one.name,
        "size": one.size,
        "role": one.role,
        "suits": one.suits,
        "installed": None if offered is None else model_names.find(one.name, offered) is not None,
        "licence": source.licence if source else None,
        "gguf_size": source.size if source else None,
    }
