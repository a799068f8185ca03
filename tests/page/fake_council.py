"""One scripted session: the events it sends and the session that its rows add up to."""

import asyncio
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.page.script import Script

NODES = ["pc1", "pc2", "pc3"]
SCORES = [[0, 7, 5], [9, 0, 6], [8, 7, 0]]
REASONS = [
    "Correct and complete; the code is right, and the trade-off with a sliding window is named.",
    "The table is useful, but it does not decide between the algorithms in the end.",
    "Short and practical. It leaves out what happens with more than one gateway.",
]


def _tokens(prompt: int, completion: int) -> dict[str, int]:
    total = prompt + completion
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total}


def _latency(node: str, index: int) -> dict[str, Any]:
    generate = 2100 + 640 * index
    return {
        "node": node,
        "queue_ms": 3 + index,
        "load_ms": 0 if index else 812,
        "prompt_ms": 96 + 11 * index,
        "generate_ms": generate,
        "network_ms": 4,
        "first_token_ms": 118 + 30 * index,
        "total_ms": generate + 130,
        "tokens_per_second": 48.2 - 9 * index,
    }


class FakeSession:
    """Plays a script. `events` only grows; whoever watches waits on `changed`."""

    def __init__(self, body: dict[str, Any], script: Script, default: list[str]) -> None:
        chosen = body.get("selected_agents") or default
        seats = [{"model": seat, "persona": None} if isinstance(seat, str) else seat for seat in chosen]
        self.script = script
        self.events: list[dict[str, Any]] = []
        self.changed = asyncio.Condition()
        self.drops = list(script.drop_at)
        self.clock = datetime.now(UTC)
        self.data: dict[str, Any] = {
            "id": str(uuid.uuid4()),
            "conversation_id": body.get("conversation_id") or str(uuid.uuid4()),
            "run": 1,
            "question": body["question"],
            "state": "queued",
            "result": None,
            "missing_agents": [],
            "practice": script.practice,
            "cached": False,
            "trimmed": script.trimmed,
            "warnings": [],
            "error": None,
            "chairman": body.get("chairman") or "phi3.5",
            "ballots": [],
            "ranking": [],
            "agreement": None,
            "contested": False,
            "synthesis": None,
            "top_answer": None,
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
            "token_usage": {
                "stage1_opinions": None,
                "stage2_review": None,
                "stage3_synthesis": None,
                "total_prompt_tokens": 0,
                "total_completion_tokens": 0,
                "total_tokens": 0,
            },
            "latency_stats": {
                "stage1_opinions": None,
                "stage2_review": None,
                "stage3_synthesis": None,
                "total_duration_ms": 0,
            },
            "created_at": self.clock.isoformat(),
            "completed_at": None,
        }

    @property
    def ended(self) -> bool:
        """Nothing follows: judged by the last event, so that no watcher leaves before it was sent."""
        if not self.events:
            return self.data["state"] in ("completed", "failed", "cancelled")
        return self.events[-1]["type"] in ("session.completed", "session.failed", "session.cancelled")

    async def send(self, type_: str, **fields: Any) -> None:
        now = datetime.now(UTC)
        self.clock = max(now, self.clock + timedelta(milliseconds=1))
        event = {
            "seq": len(self.events) + 1,
            "session_id": self.data["id"],
            "at": self.clock.isoformat(),
            "type": type_,
        }
        async with self.changed:
            self.events.append(event | fields)
            self.changed.notify_all()

    async def run(self) -> None:
        try:
            await self._council(self.data["agents"])
        except asyncio.CancelledError:
            self.data["state"] = "cancelled"
            await self.send("session.cancelled")

    async def retry(self, agent_id: str) -> None:
        """Run + 1: the failed seat speaks, and what depends on it is done again."""
        self.script.failing.discard(agent_id)
        self.data |= {"run": self.data["run"] + 1, "state": "queued", "result": None, "synthesis": None}
        await self.send("session.reopened", run=self.data["run"], agent_id=agent_id)
        again = [agent for agent in self.data["agents"] if agent["agent_id"] == agent_id]
        await self._council(again)

    async def _council(self, speaking: list[dict[str, Any]]) -> None:
        if self.data["run"] == 1:
            await self.send("session.started")
            for text in self.script.warnings:
                self.data["warnings"].append(text)
                await self.send("warning", text=text)
        await self._stage("opinions", speaking)
        agents = self.data["agents"]
        done = [agent for agent in agents if agent["state"] == "done"]
        missing = [agent["agent_id"] for agent in agents if agent["state"] != "done"]
        if not done:
            error = {"title": "Quorum not met", "detail": "No seat answered.", "code": "quorum_not_met"}
            self.data |= {"state": "failed", "error": error, "missing_agents": missing}
            await self.send("session.failed", error=error)
            return
        if len(agents) > 1:
            await self._stage("review", done)
            await self._stage("synthesis", [{"agent_id": "chairman", "model": self.data["chairman"]}])
        result = "single" if len(agents) == 1 else "degraded" if missing else "full"
        self._sum()
        self.data |= {
            "state": "completed",
            "result": result,
            "missing_agents": missing,
            "completed_at": self.clock.isoformat(),
            "top_answer": self._top(done),
        }
        await self.send("session.completed", result=result)

    def _top(self, done: list[dict[str, Any]]) -> str | None:
        first = self.data["ranking"] or done
        return first[0]["agent_id"] if first else None

    def _sum(self) -> None:
        usage = self.data["token_usage"]
        latency = self.data["latency_stats"]
        keys = ("stage1_opinions", "stage2_review", "stage3_synthesis")
        took = [latency[key] for key in keys if latency[key]]
        stages = [
            usage[key] for key in ("stage1_opinions", "stage2_review", "stage3_synthesis") if usage[key]
        ]
        for name in ("total_prompt_tokens", "total_completion_tokens", "total_tokens"):
            usage[name] = sum(stage[name] for stage in stages)
        self.data["latency_stats"]["total_duration_ms"] = 60 + sum(stage["duration_ms"] for stage in took)

    async def _stage(self, stage: str, seats: list[dict[str, Any]]) -> None:
        self.data["state"] = stage
        await self.send("stage.started", stage=stage)
        for position, seat in enumerate(seats):
            await self.send("call.queued", stage=stage, agent_id=seat["agent_id"], position=position + 1)
        calls = [self._call(stage, seat, index) for index, seat in enumerate(seats)]
        figures = [done for done in await asyncio.gather(*calls) if done]
        prompt = sum(tokens["prompt_tokens"] for _, _, tokens, _ in figures)
        completion = sum(tokens["completion_tokens"] for _, _, tokens, _ in figures)
        key = {"opinions": "stage1_opinions", "review": "stage2_review", "synthesis": "stage3_synthesis"}[
            stage
        ]
        usage = {
            "stage": stage,
            "total_prompt_tokens": prompt,
            "total_completion_tokens": completion,
            "total_tokens": prompt + completion,
            "by_model": {model: tokens for _, model, tokens, _ in figures},
        }
        latency = {
            "stage": stage,
            "duration_ms": 40 + max((took["total_ms"] for *_, took in figures), default=0),
            "by_agent": {agent: took for agent, _, _, took in figures},
        }
        self.data["token_usage"][key] = usage
        self.data["latency_stats"][key] = latency
        if stage == "review":
            await self._rank()
        await self.send("stage.completed", stage=stage, token_usage=usage, latency=latency)

    async def _call(
        self, stage: str, seat: dict[str, Any], index: int
    ) -> tuple[str, str, dict[str, int], dict[str, Any]] | None:
        agent_id, node = seat["agent_id"], NODES[index % len(NODES)]
        if stage == "opinions":
            seat |= {"node": node, "state": "running", "error": None}
        await self.send("call.started", stage=stage, agent_id=agent_id, node=node, model=seat["model"])
        text = self._text(stage, agent_id)
        if stage == "opinions" and agent_id in self.script.thinking:
            await self._stream(stage, agent_id, self.script.thinking[agent_id], "thinking")
        if stage == "opinions" and agent_id in self.script.restarting:
            await self._stream(stage, agent_id, text[:60])
            await self.send(
                "call.restarted",
                stage=stage,
                agent_id=agent_id,
                from_node=node,
                to_node="pc3",
                reason="the node stopped answering",
            )
        middle = len(text) // 2
        await self._stream(stage, agent_id, text[:middle])
        await self.script.reach(stage)
        if stage == "opinions" and agent_id in self.script.failing:
            seat |= {
                "state": "failed",
                "error": {
                    "title": "The model stopped",
                    "detail": f"{seat['model']} on {node} sent nothing for 20 s.",
                    "code": "stalled",
                },
            }
            await self.send("call.failed", stage=stage, agent_id=agent_id, error=seat["error"])
            return None
        await self._stream(stage, agent_id, text[middle:])
        tokens, latency = _tokens(180 + 40 * index, max(1, len(text) // 4)), _latency(node, index)
        if stage == "opinions":
            seat |= {"state": "done", "opinion": text}
        await self.send("call.completed", stage=stage, agent_id=agent_id, token_usage=tokens, latency=latency)
        if stage == "review":
            await self._vote(seat)
        if stage == "synthesis":
            self.data["synthesis"] = {
                "text": text,
                "model": seat["model"],
                "node": node,
                "kind": self.script.kind,
            }
        return agent_id, seat["model"], tokens, latency

    def _text(self, stage: str, agent_id: str) -> str:
        if stage == "opinions":
            return self.script.answers[(int(agent_id.split("_")[1]) - 1) % len(self.script.answers)]
        return (
            self.script.final
            if stage == "synthesis"
            else '{"rankings": [{"label": "A", "reasoning": "…", "score": 7}]}'
        )

    async def _stream(self, stage: str, agent_id: str, text: str, channel: str = "answer") -> None:
        for start in range(0, len(text), self.script.chunk):
            await self.send(
                "call.delta",
                stage=stage,
                agent_id=agent_id,
                channel=channel,
                text=text[start : start + self.script.chunk],
            )
            await asyncio.sleep(self.script.pause_s)

    async def _vote(self, seat: dict[str, Any]) -> None:
        reviewer = seat["agent_id"]
        others = [ballot for ballot in self.data["ballots"] if ballot["reviewer"] != reviewer]
        if reviewer in self.script.abstaining:
            reason = "its ballot was not valid JSON twice"
            seat["review_state"] = "abstained"
            self.data["ballots"] = [
                *others,
                {"reviewer": reviewer, "rankings": [], "abstained": True, "reason": reason},
            ]
            await self.send("ballot.abstained", reviewer=reviewer, reason=reason)
            return
        row = int(reviewer.split("_")[1]) - 1
        rankings = [
            {
                "agent_id": agent["agent_id"],
                "score": SCORES[row % 3][column % 3] or 6,
                "reasoning": REASONS[column % 3],
            }
            for column, agent in enumerate(self.data["agents"])
            if agent["agent_id"] != reviewer and agent["state"] == "done"
        ]
        seat["review_state"] = "done"
        ballots = [*others, {"reviewer": reviewer, "rankings": rankings, "abstained": False, "reason": None}]
        self.data["ballots"] = sorted(ballots, key=lambda ballot: ballot["reviewer"])
        await self.send("ballot.accepted", reviewer=reviewer)

    async def _rank(self) -> None:
        scores: dict[str, list[int]] = {}
        for ballot in self.data["ballots"]:
            for entry in ballot["rankings"]:
                scores.setdefault(entry["agent_id"], []).append(entry["score"])
        order = sorted(scores, key=lambda agent: -sum(scores[agent]) / len(scores[agent]))
        self.data["ranking"] = [
            {
                "agent_id": agent,
                "rank": rank,
                "borda": round(1 - (rank - 1) / max(1, len(order) - 1) * 0.86, 2),
                "mean_score": sum(scores[agent]) / len(scores[agent]),
                "votes": len(scores[agent]),
            }
            for rank, agent in enumerate(order, 1)
        ]
        self.data |= {
            "agreement": 0.22 if self.script.contested else 0.78,
            "contested": self.script.contested,
        }
        await self.send("ranking.updated", ranking=self.data["ranking"])

    def snapshot(self) -> dict[str, Any]:
        """The session and the unfinished text so far, as of the last event."""
        partial: dict[str, dict[str, str]] = {}
        for event in self.events:
            if event["type"] == "call.delta" and event["channel"] == "answer":
                texts = partial.setdefault(event["stage"], {})
                texts[event["agent_id"]] = texts.get(event["agent_id"], "") + event["text"]
        return {
            "seq": len(self.events),
            "session_id": self.data["id"],
            "at": self.clock.isoformat(),
            "type": "snapshot",
            "session": self.data,
            "partial": partial,
        }
