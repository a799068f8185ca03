"""What one call will say: a reply, with its limits, stop strings and the faults of its text applied."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from aiohttp import web

from tests.standin.encoders import Encoder
from tests.standin.faults import Fault, FaultKind
from tests.standin.journal import CallRecord
from tests.standin.model import Reply, StandInModel, default_thinking, tokenize

PROSE = "I would say the first answer is the better one, though both have merit and neither is wrong."


@dataclass(frozen=True)
class Plan:
    """The pieces to say, in order: `thinking` of them first, and how it ends."""

    pieces: list[str]
    thinking: int
    done_reason: str
    tail: str = ""
    tool_calls: tuple[dict[str, Any], ...] = ()
    prompt_tokens: int = 0
    prompt_eval_count: int = 0
    eval_count: int | None = None
    raw_separators: bool = False
    token_limit: int = 0


@dataclass
class Call:
    """Everything one generation needs; made by a route."""

    request: web.BaseRequest
    record: CallRecord
    model: StandInModel
    encoder: Encoder
    stream: bool
    faults: tuple[Fault, ...]
    prompt_words: list[str]
    with_context: bool = False

    def fault(self, kind: FaultKind) -> Fault | None:
        return next((fault for fault in self.faults if fault.kind is kind), None)


def make_plan(
    call: Call, reply: Reply, *, think: bool, limit: int, stop: tuple[str, ...], room: int | None
) -> Plan:
    """Apply the faults of the text, the stop strings and the limits to a reply.

    `room` is what is left of the context when it may not shift.
    """
    reply = _distorted(call, reply)
    content = reply.pieces()
    for word in stop:
        text = "".join(content)
        if word in text:
            content = tokenize(text[: text.index(word)])
    thinking_text = reply.thinking
    if thinking_text is None and call.model.thinking and not call.fault(FaultKind.EMPTY):
        thinking_text = default_thinking(call.model)
    thought = tokenize(thinking_text or "") if think else []
    pieces = [*thought, *content]
    reason = reply.done_reason
    bound = limit if room is None else min(limit, room)
    if fault := call.fault(FaultKind.LENGTH):
        bound = min(bound, fault.after_tokens, max(0, len(pieces) - 1) if not fault.after_tokens else bound)
        reason = "length"
    if len(pieces) > bound:
        pieces, reason = pieces[:bound], "length"
    counted = len(call.prompt_words) if reply.prompt_eval_count is None else reply.prompt_eval_count
    plan = Plan(
        pieces,
        min(len(thought), len(pieces)),
        reason,
        tool_calls=reply.tool_calls,
        prompt_tokens=len(call.prompt_words),
        prompt_eval_count=0 if call.fault(FaultKind.NO_PROMPT_EVAL_COUNT) else counted,
        eval_count=reply.eval_count,
        raw_separators=call.fault(FaultKind.RAW_SEPARATORS) is not None,
        token_limit=limit,
    )
    if call.stream and call.fault(FaultKind.CONTENT_IN_DONE) and len(pieces) > plan.thinking:
        plan = replace(plan, pieces=pieces[:-1], tail=pieces[-1], eval_count=plan.eval_count or len(pieces))
    return plan


def _distorted(call: Call, reply: Reply) -> Reply:
    for fault in call.faults:
        match fault.kind:
            case FaultKind.EMPTY:
                reply = replace(reply, text="", tokens=None, thinking="")
            case FaultKind.PROSE:
                reply = replace(reply, text=fault.text or PROSE, tokens=None)
            case FaultKind.INVALID_JSON:
                text = "".join(reply.pieces())
                cut = text[: max(1, len(text) * 2 // 3)].rstrip("}] \n")
                reply = replace(reply, text=fault.text or cut, tokens=None)
            case FaultKind.RAW_SEPARATORS:
                first, *rest = reply.pieces() or [""]
                reply = replace(reply, tokens=(f"{first}\u0085next\u2028line", *rest))
            case FaultKind.SPLIT_MULTIBYTE if "".join(reply.pieces()).isascii():
                first, *rest = reply.pieces() or [""]
                reply = replace(reply, tokens=(f"\u2603 {first}", *rest))
            case _:
                pass
    return reply
