"""One scripted session: its events as the wire has them, and the session that they add up to."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass, field
from typing import Any

ANSWER = "# The answer\n\nThe sky is **blue** because of Rayleigh scattering.\n"


@dataclass
class Script:
    """What the next session does. `hold_before`: the stage at which it waits for a cancel.

    `drop_at`: after these events the socket is cut. `cut_reconnects`: so many that follow are cut at once.
    `leave_out`: events that are never sent. `restart`: the first call begins anew on another node.
    `snapshot_on_reconnect`: a reconnect gets a snapshot instead of the events.
    """

    answer: str = ANSWER
    opinion: str = "First line of {agent}.\nSecond line of {agent}."
    pause_s: float = 0.0
    hold_before: str | None = None
    drop_at: set[int] = field(default_factory=set)
    cut_reconnects: int = 0
    leave_out: set[int] = field(default_factory=set)
    restart: bool = False
    snapshot_on_reconnect: bool = False
    missing: list[str] = field(default_factory=list)
    result: str = "full"
    fail: dict[str, Any] | None = None
    practice: bool = False
    warnings: list[str] = field(default_factory=list)
    ignore_cancel: bool = False


class FakeSession:
    """Plays a script once. `events` only grows; whoever watches waits on `changed`."""

    def __init__(self, body: dict[str, Any], script: Script) -> None:
        self.script = script
        self.body = body
        self.events: list[dict[str, Any]] = []
        self.changed = asyncio.Condition()
        self.cancelled = asyncio.Event()
        chosen = body.get("selected_agents") or ["llama3.2:1b", "qwen2.5:0.5b", "phi3.5"]
        seats = [{"model": seat} if isinstance(seat, str) else seat for seat in chosen]
        self.data: dict[str, Any] = {
            "id": str(uuid.uuid4()),
            "conversation_id": body.get("conversation_id") or str(uuid.uuid4()),
            "run": 1,
            "question": body["question"],
            "state": "queued",
            "result": None,
            "missing_agents": script.missing,
            "practice": script.practice,
            "cached": False,
            "trimmed": [],
            "warnings": script.warnings,
            "error": None,
            "chairman": body.get("chairman") or "phi3.5",
            "agents": [
                {
                    "agent_id": f"agent_{number}",
                    "model": seat["model"],
                    "persona": seat.get("persona"),
                    "node": None,
                    "state": "waiting",
                    "opinion": None,
                    "review_state": "waiting",
                    "error": None,
                }
                for number, seat in enumerate(seats, 1)
            ],
            "ballots": [],
            "ranking": [],
            "agreement": 0.71,
            "contested": False,
            "synthesis": None,
            "top_answer": None,
            "token_usage": {"stage1_opinions": None, "stage2_review": None, "stage3_synthesis": None,
                            "total_prompt_tokens": 0, "total_completion_tokens": 0, "total_tokens": 0},
            "latency_stats": {"stage1_opinions": None, "stage2_review": None, "stage3_synthesis": None,
                              "total_duration_ms": 0},
            "created_at": "2026-01-01T00:00:00Z",
            "completed_at": None,
        }  # fmt: skip

    @property
    def ended(self) -> bool:
        return self.data["state"] in ("completed", "failed", "cancelled")

    async def send(self, kind: str, **fields: Any) -> None:
        async with self.changed:
            seq = len(self.events) + 1
            self.events.append({"seq": seq, "session_id": self.data["id"], "at": "", "type": kind, **fields})
            self.changed.notify_all()
        if self.script.pause_s:
            await asyncio.sleep(self.script.pause_s)

    def snapshot(self) -> dict[str, Any]:
        return {"seq": len(self.events), "session_id": self.data["id"], "at": "", "type": "snapshot",
                "session": self.data, "partial": {}}  # fmt: skip

    async def run(self) -> None:
        await self.send("session.started")
        for stage in ("opinions", "review", "synthesis"):
            if self.script.hold_before == stage:
                await self.cancelled.wait()
                self.data["state"] = "cancelled"
                await self.send("session.cancelled")
                return
            if self.script.fail and stage == "review":
                self.data |= {"state": "failed", "error": self.script.fail}
                await self.send("session.failed", error=self.script.fail)
                return
            await self._stage(stage)
        self.data |= {
            "state": "completed",
            "result": self.script.result,
            "completed_at": "2026-01-01T00:00:09Z",
        }
        await self.send("session.completed", result=self.script.result)

    async def _stage(self, stage: str) -> None:
        self.data["state"] = stage
        await self.send("stage.started", stage=stage)
        agents = self.data["agents"]
        if stage == "synthesis":
            await self._call(stage, "chairman", self.data["chairman"], self.script.answer)
            self.data["synthesis"] = {
                "text": self.script.answer, "model": self.data["chairman"], "node": "pc1", "kind": "chairman",
            }  # fmt: skip
        for agent in agents if stage != "synthesis" else []:
            if agent["agent_id"] in self.script.missing:
                agent["state"] = "failed"
                agent["error"] = {"code": "stream_cut", "detail": "the answer was cut off"}
                await self.send("call.failed", stage=stage, agent_id=agent["agent_id"], error=agent["error"])
                continue
            text = self.script.opinion.format(agent=agent["agent_id"]) if stage == "opinions" else '{"a": 7}'
            await self._call(stage, agent["agent_id"], agent["model"], text)
            if stage == "opinions":
                agent |= {"state": "done", "opinion": text, "node": "pc1"}
            else:
                agent["review_state"] = "done"
                await self._ballot(agent["agent_id"])
        self._figures(stage)
        await self.send("stage.completed", stage=stage)
        if stage == "review":
            self.data["ranking"] = [
                {
                    "agent_id": agent["agent_id"],
                    "rank": rank,
                    "borda": 1 / rank,
                    "mean_score": 9 - rank,
                    "votes": 2,
                }
                for rank, agent in enumerate(agents, 1)
            ]
            self.data["top_answer"] = "agent_1"
            await self.send("ranking.updated", ranking=self.data["ranking"])

    async def _call(self, stage: str, agent_id: str, model: str, text: str) -> None:
        where = {"stage": stage, "agent_id": agent_id}
        await self.send("call.queued", **where, position=1)
        await self.send("call.started", **where, node="pc1", model=model)
        if self.script.restart and stage == "opinions" and agent_id == "agent_1":
            await self.send("call.delta", **where, channel="answer", text="thrown away\n")
            await self.send("call.restarted", **where, from_node="pc1", to_node="pc2", reason="stream_cut")
            await self.send("call.started", **where, node="pc2", model=model)
        for start in range(0, len(text), 12):
            await self.send("call.delta", **where, channel="answer", text=text[start : start + 12])
        await self.send("call.completed", **where, token_usage=_tokens(10, 5), latency=_latency())

    async def _ballot(self, reviewer: str) -> None:
        others = [agent["agent_id"] for agent in self.data["agents"] if agent["agent_id"] != reviewer]
        rankings = [{"agent_id": name, "score": 7, "reasoning": "fine"} for name in others]
        self.data["ballots"].append(
            {"reviewer": reviewer, "rankings": rankings, "abstained": False, "reason": None}
        )
        await self.send("ballot.accepted", reviewer=reviewer)

    def _figures(self, stage: str) -> None:
        key = {"opinions": "stage1_opinions", "review": "stage2_review", "synthesis": "stage3_synthesis"}[
            stage
        ]
        seats = {agent["agent_id"]: agent["model"] for agent in self.data["agents"]}
        if stage == "synthesis":
            seats = {"chairman": self.data["chairman"]}
        total = _tokens(10 * len(seats), 5 * len(seats))
        usage, latency = self.data["token_usage"], self.data["latency_stats"]
        totals = {f"total_{name.removeprefix('total_')}": value for name, value in total.items()}
        by_model = {model: _tokens(10, 5) for model in seats.values()}
        usage[key] = {"stage": stage, **totals, "by_model": by_model}
        for name, value in totals.items():
            usage[name] += value
        latency[key] = {"stage": stage, "duration_ms": 120.0,
                        "by_agent": {seat: {"node": "pc1", **_latency()} for seat in seats}}  # fmt: skip
        latency["total_duration_ms"] += 120.0


def _tokens(prompt: int, completion: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _latency() -> dict[str, Any]:
    return {"queue_ms": 3, "load_ms": 0, "prompt_ms": 20, "generate_ms": 100, "network_ms": 2,
            "first_token_ms": 25, "total_ms": 125, "tokens_per_second": 48.2}  # fmt: skip
