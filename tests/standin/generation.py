"""One generation: a plan, said at its times, with the faults that strike on the way."""

from __future__ import annotations

import asyncio

from aiohttp import web

from tests.standin.channel import Channel, drop
from tests.standin.encoders import Ending
from tests.standin.engine import Engine, for_ever, loop_ms, sleep_until
from tests.standin.faults import TIMED, Fault, FaultKind
from tests.standin.plan import Call, Plan
from tests.standin.scheduler import DIED_TEXT, Runner
from tests.standin.wire import JSON_BARE, Refusal, go_json

UNEXPECTED_EOF = "an error was encountered while running the model: unexpected EOF"
_BLANK_LIMIT = 31
_YIELD_EVERY = 32


def refuse_by_fault(engine: Engine, call: Call) -> None:
    """Raise what a fault of the engine says in place of a first token."""
    for fault in call.faults:
        match fault.kind:
            case FaultKind.STATUS:
                raise Refusal(fault.status, fault.text or "llama-server internal error", by_engine=True)
            case FaultKind.RUNNER_DIED:
                engine.scheduler.kill(call.model.name)
                raise Refusal(500, fault.text or DIED_TEXT, by_engine=True)
            case _:
                pass


class Generation:
    """Says a plan. A slot must be held while `run` is awaited."""

    def __init__(self, engine: Engine, call: Call, plan: Plan, runner: Runner) -> None:
        self._engine = engine
        self._call = call
        self._plan = plan
        self._runner = runner
        self._pieces = list(plan.pieces)
        self._said = 0
        self._sent = 0
        self._began_s = 0.0
        self._due_s = 0.0
        self._prompt_s = 0.0
        self._token_s = self._token_time()
        self._channel = Channel(call.request, call.encoder.stream_type, call.faults)
        self._buffer: list[bytes] = []
        last = len(plan.pieces)
        self._timed: dict[int, list[Fault]] = {}
        self._endless: Fault | None = None
        for fault in call.faults:
            if fault.kind in TIMED:
                self._timed.setdefault(min(fault.after_tokens, last), []).append(fault)

    def _token_time(self) -> float:
        model = self._call.model
        if model.duration_ms is not None:
            return model.duration_ms / 1000 / max(1, len(self._plan.pieces))
        return model.token_ms / 1000

    async def run(self) -> web.StreamResponse:
        """Wait out the prompt, then say every token at its time; the response is complete when it returns."""
        await self._read_prompt()
        if self._call.stream:
            return await self._stream()
        return await self._whole()

    async def _read_prompt(self) -> None:
        words, last_prompts = self._call.prompt_words, self._runner.last_prompts
        uncached = len(words)
        if self._call.model.cache_prefix:
            shared = max((_shared_prefix(words, old) for old in last_prompts), default=0)
            uncached = max(1, len(words) - shared)
            last_prompts.append(words)
        speed = self._call.model.prompt_tokens_per_s
        start_s = asyncio.get_running_loop().time()
        self._prompt_s = (uncached / speed if speed > 0 else 0.0) + self._call.model.first_token_ms / 1000
        self._began_s = self._due_s = start_s + self._prompt_s
        if self._prompt_s > 0 and not self._plan.pieces:
            await sleep_until(self._due_s)

    async def _stream(self) -> web.StreamResponse:
        plan, encoder = self._plan, self._call.encoder
        per_write = self._call.model.chunks_per_write
        raw = plan.raw_separators
        while True:
            if self._timed and self._said in self._timed:
                for fault in self._timed.pop(self._said):
                    ended = await self._hit(fault)
                    if ended is not None:
                        return ended
            if not self._more():
                break
            index = self._said
            self._advance()
            self._buffer.append(encoder.delta(self._piece(index), index < plan.thinking, raw))
            if len(self._buffer) >= per_write:
                await self._flush()
        await self._flush()
        await self._wait_for_end()
        return await self._finish()

    async def _whole(self) -> web.StreamResponse:
        if not self._timed and not self._engine.shared_speed:
            self._said = len(self._pieces)
            self._due_s = self._began_s + self._said * self._token_s
            if self._pieces:
                await sleep_until(self._began_s + self._token_s)
                self._first_token()
                await sleep_until(self._due_s)
        else:
            while True:
                for fault in self._timed.pop(self._said, ()):
                    ended = await self._hit(fault)
                    if ended is not None:
                        return ended
                if not self._more():
                    break
                self._advance()
                await self._pace()
                self._first_token()
        await self._wait_for_end()
        ending = self._ending(done=True)
        return self._answer(self._call.encoder.whole(ending), "done", ending)

    def _more(self) -> bool:
        if self._said < len(self._pieces):
            return True
        if self._endless is None:
            return False
        return not (self._endless.obey_num_predict and self._said >= self._plan.token_limit)

    def _piece(self, index: int) -> str:
        return self._pieces[index] if index < len(self._pieces) else " on"

    def _advance(self) -> None:
        """The next token is due one token time later; sharing the engine makes that time longer."""
        self._said += 1
        if self._engine.shared_speed:
            others = self._engine.scheduler.running() - 1
            self._due_s += self._token_s * (1 + self._engine.shared_speed * max(0, others))
        else:
            self._due_s = self._began_s + self._said * self._token_s

    async def _pace(self) -> None:
        delay = self._due_s - asyncio.get_running_loop().time()
        if delay > 0:
            await asyncio.sleep(delay)
        elif self._said % _YIELD_EVERY == 0:
            await asyncio.sleep(0)

    async def _flush(self) -> None:
        if not self._buffer:
            return
        await self._pace()
        data = self._buffer[0] if len(self._buffer) == 1 else b"".join(self._buffer)
        self._buffer.clear()
        self._first_token()
        await self._channel.send(data)
        self._sent = self._said
        self._call.record.tokens_sent = self._said

    async def _wait_for_end(self) -> None:
        if not self._pieces and self._call.model.duration_ms is not None:
            await sleep_until(self._began_s + self._call.model.duration_ms / 1000)

    async def _finish(self) -> web.StreamResponse:
        if self._plan.tail:
            self._first_token()
        ending = self._ending(done=True)
        await self._channel.send(self._call.encoder.end(ending, self._plan.tail), last=True)
        self._note(ending, "done")  # now, since the client may leave as soon as it has the closing line
        return await self._channel.close()

    async def _hit(self, fault: Fault) -> web.StreamResponse | None:
        """Let a timed fault happen; a response ends the generation."""
        await self._flush()
        call = self._call
        match fault.kind:
            case FaultKind.STALL:
                if fault.stall_ms is None:
                    await for_ever()
                await asyncio.sleep((fault.stall_ms or 0) / 1000)
                self._began_s += (fault.stall_ms or 0) / 1000
                self._due_s += (fault.stall_ms or 0) / 1000
            case FaultKind.ENDLESS:
                self._endless = fault
                self._token_s = self._token_s or 0.001
                self._began_s = asyncio.get_running_loop().time() - self._said * self._token_s
            case FaultKind.ERROR_LINE:
                return await self._error_line(fault)
            case FaultKind.NO_DONE:
                return await self._without_done()
            case FaultKind.CUT:
                await self._cut(fault)
            case FaultKind.WHITESPACE:
                self._pieces[self._said :] = ["\n"] * _BLANK_LIMIT
                self._timed.setdefault(len(self._pieces), []).append(Fault(FaultKind.NO_DONE))
            case FaultKind.GARBAGE_LINE:
                garbage = (fault.text or '{"model": broken') + "\n"
                if not call.stream:
                    return self._answer(garbage.encode(), "error", self._ending(done=False))
                await self._channel.send(garbage.encode())
            case _:
                pass
        return None

    async def _error_line(self, fault: Fault) -> web.StreamResponse:
        text = fault.text or UNEXPECTED_EOF
        record = self._call.record
        if not self._call.stream or self._said == 0:
            raise Refusal(fault.status, text, by_engine=True)
        record.error = text
        await self._channel.send(self._call.encoder.late_error(text), last=True)
        self._note(None, "error")
        return await self._channel.close()

    async def _without_done(self) -> web.StreamResponse:
        ending = self._ending(done=False)
        if not self._call.stream:
            return self._answer(self._call.encoder.whole(ending), "no_done", None)
        response = await self._channel.close()
        self._note(None, "no_done")
        return response

    async def _cut(self, fault: Fault) -> None:
        self._note(None, "cut")
        if not self._call.stream:
            drop(self._call.request.transport, reset=fault.reset)
            await for_ever()
        line = self._call.encoder.delta(self._piece(self._said), False, False)
        await self._channel.cut(line[: len(line) // 2], reset=fault.reset)

    def _first_token(self) -> None:
        if self._call.record.first_token_ms is None:
            self._call.record.first_token_ms = loop_ms()
            self._engine.journal.changed()

    def _ending(self, *, done: bool) -> Ending:
        plan, record = self._plan, self._call.record
        said = [self._piece(index) for index in range(self._said)]
        reason = plan.done_reason
        if self._endless is not None:
            reason = "length"
        now_ms = loop_ms()
        loaded_ms = record.loaded_ms or record.received_ms
        metrics: dict[str, int] = {}
        if done:
            eval_count = plan.eval_count if plan.eval_count is not None else self._said
            metrics = {
                "total_duration": _nanos(now_ms - record.received_ms),
                "load_duration": _nanos(loaded_ms - record.received_ms),
                "prompt_eval_count": plan.prompt_eval_count,
                "prompt_eval_duration": _nanos(self._prompt_s * 1000),
                "eval_count": eval_count,
                "eval_duration": _nanos(now_ms - (self._began_s * 1000)),
            }
        return Ending(
            text="".join(said[plan.thinking :]) + plan.tail,
            thinking="".join(said[: plan.thinking]),
            done=done,
            done_reason=reason if done else None,
            tool_calls=plan.tool_calls,
            metrics={name: value for name, value in metrics.items() if value},
            context=list(range(1, plan.prompt_tokens + self._said + 1)) if self._call.with_context else None,
        )

    def _answer(self, body: bytes, outcome: str, ending: Ending | None) -> web.StreamResponse:
        self._note(ending, outcome)
        return web.Response(body=body, headers={"Content-Type": self._call.encoder.whole_type})

    def _note(self, ending: Ending | None, outcome: str) -> None:
        record = self._call.record
        record.status = 200
        record.tokens_sent = self._said
        if ending is not None and ending.done:
            record.done_reason = ending.done_reason
            record.prompt_eval_count = ending.metrics.get("prompt_eval_count")
            record.eval_count = ending.metrics.get("eval_count")
        record.text = ending.text if ending else "".join(self._piece(i) for i in range(self._said))
        self._engine.journal.close(record, outcome, loop_ms())


def old_error_line(call: Call, fault: Fault) -> web.Response:
    """Before v0.12.6: status 200 and the error as the only line."""
    body = go_json({"error": fault.text or DIED_TEXT}) + b"\n"
    return web.Response(
        body=body, headers={"Content-Type": call.encoder.stream_type if call.stream else JSON_BARE}
    )


def _shared_prefix(left: list[str], right: list[str]) -> int:
    count = 0
    for a, b in zip(left, right, strict=False):
        if a != b:
            break
        count += 1
    return count


def _nanos(milliseconds: float) -> int:
    return max(1, int(milliseconds * 1_000_000))
