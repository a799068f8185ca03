"""What the turns of a chat share, as calls are told to the lanes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from common.telemetry import TraceContext
from master.api.chat_with_model import _call
from master.api.openai_shapes import ChatCompletion
from master.services import Services

SERVICES = cast(Services, SimpleNamespace(registry=SimpleNamespace(has=lambda *_, **__: True)))


def key_of(*messages: tuple[str, str], **more: Any) -> str | None:
    said = [{"role": role, "content": content} for role, content in messages]
    body = ChatCompletion.model_validate({"model": "m", "messages": said, **more})
    return _call(body, SERVICES, TraceContext.new(), "1").conversation_key


def test_the_turns_of_a_chat_share_a_key() -> None:
    first = (("system", "Be short."), ("user", "Why?"))
    key = key_of(*first)
    assert key
    assert key == key_of(*first, ("assistant", "Because."), ("user", "And then?"))
    assert key == key_of(("developer", "Be short."), ("user", "Why?"), temperature=0.5)
    assert key != key_of(("system", "Be long."), ("user", "Why?"))
    assert key != key_of(("system", "Be short."), ("user", "Who?"))
    assert key_of(("system", "a"), ("user", "b")) != key_of(("system", "a user:b"), ("user", ""))
