"""The background part of the scripted master: a gate, jobs, figures and archives that a test sets."""

from __future__ import annotations

import math
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

AT = "2026-11-21T10:00:00+00:00"
GATE: dict[str, Any] = {
    "state": "cooling",
    "open": False,
    "reason": "waiting: 142 s until idle; CPU 61 % > 50 %",
    "wait_s": 142.0,
    "open_for_long_jobs": False,
    "reason_for_long_jobs": "waiting: 27 min until long idle",
    "since_s": 150.0,
    "quiet_s": 158.0,
    "interactive_calls": 0,
    "night": {"enabled": True, "open": False, "start": 22, "end": 6, "changes_at": None},
    "habits": {"usual": ["Mon-Fri 9-12, 14-18"], "expected_quiet_s": 3600.0, "hours_known": 168},
    "limits": {"idle_s": 300, "long_idle_s": 1800, "max_cpu": 0.5, "max_memory": 0.75, "on_battery": False},
    "nodes": [
        {
            "node": name,
            "state": "cooling",
            "open": False,
            "reason": reason,
            "foreign_cpu": cpu,
            "foreign_memory": memory,
        }
        for name, cpu, memory, reason in (
            ("pc1", 0.61, 0.42, "waiting: 142 s until idle; CPU 61 % > 50 %"),
            ("pc2", 0.03, 0.2, "waiting: 142 s until idle"),
            ("pc3", None, 0.7, "waiting: 142 s until idle; it runs on battery"),
        )
    ],
}
MARKDOWN = """---
id: a1
title: "A title"
---

# Rate limits of the API

The team compared two algorithms and chose the token bucket.

## Key facts

- Bursts of **100** requests are common [1]
- <img src=x onerror="window.hacked = 1"> [2]

## Decisions

- Use a token bucket with a refill of 10 per second [2]
"""


def job(number: int, state: str = "queued", **fields: Any) -> dict[str, Any]:
    return {
        "id": f"job-{number}",
        "type": "summarise",
        "priority": 10,
        "state": state,
        "input": {"archive_id": "a1"},
        "attempts": 0,
        "progress": {"done": 0, "total": 0, "note": ""},
        "cause": None,
        "created_at": AT,
        "started_at": None,
        "ended_at": None,
    } | fields


def archive(id_: str, title: str, status: str = "structured", **fields: Any) -> dict[str, Any]:
    return {
        "id": id_,
        "status": status,
        "title": title,
        "quick_summary": "Two algorithms were compared; the token bucket was chosen.",
        "messages_count": 6,
        "chunks_total": 3,
        "watermark": 3 if status == "structured" else 1,
        "items_count": 7,
        "practice": False,
        "superseded_by": None,
        "error": None,
        "created_at": AT,
    } | fields


class FakeBackground:
    """Set the fields; read `archived`, `activity` and the jobs afterwards."""

    def __init__(self) -> None:
        self.gate: dict[str, Any] = dict(GATE)
        self.jobs: list[dict[str, Any]] = []
        self.archives: list[dict[str, Any]] = []
        self.archived: list[dict[str, Any]] = []
        self.activity = 0
        self.paused = False
        self.usage: list[str] = []

    @property
    def dead(self) -> list[dict[str, Any]]:
        return [one for one in self.jobs if one["state"] == "dead"]

    async def status(self, _request: Request) -> Response:
        counts: dict[str, int] = {}
        for one in self.jobs:
            counts[one["state"]] = counts.get(one["state"], 0) + 1
        today = {"calls": 12, "total_tokens": 48_000, "max_calls": 500, "max_tokens": None}
        return JSONResponse(
            {
                "jobs": counts,
                "waiting_for": None if self.gate["open"] else self.gate["reason"],
                "gate": self.gate,
                "paused": self.paused,
                "today": today,
            }
        )

    async def listed(self, request: Request) -> Response:
        start = int(request.query_params.get("cursor", 0))
        end = start + int(request.query_params.get("limit", 50))
        found = self.jobs[start:end]
        return JSONResponse({"jobs": found, "next_cursor": str(end) if end < len(self.jobs) else None})

    async def dead_letters(self, request: Request) -> Response:
        if request.method == "POST":
            dead = self.dead
            for one in dead:
                one["state"] = "queued"
            return JSONResponse({"replayed": len(dead)}, 202)
        return JSONResponse({"jobs": self.dead, "next_cursor": None})

    async def change(self, request: Request) -> Response:
        one = next(one for one in self.jobs if one["id"] == request.path_params["id"])
        verb = request.path_params.get("verb", "dismiss")
        one["state"] = {"cancel": "cancelled", "retry": "queued", "dismiss": "failed"}[verb]
        return Response(status_code=204) if verb == "dismiss" else JSONResponse(one)

    async def queue(self, request: Request) -> Response:
        self.paused = request.url.path.endswith("pause")
        return JSONResponse({"paused": self.paused})

    async def activity_told(self, _request: Request) -> Response:
        self.activity += 1
        return JSONResponse({"registered": True})

    async def used(self, request: Request) -> Response:
        hours = request.query_params["hours"]
        self.usage.append(hours)
        step = 60 if hours != "24" else 120
        at = [1_800_000_000 + step * minute for minute in range(60)]

        def part(mean: float, memory: int) -> dict[str, Any]:
            cpu: list[float | None] = [
                round(mean * (1 + 0.6 * math.sin(one / 6 + mean)), 1) for one in range(60)
            ]
            cpu[20:23] = [None, None, None]
            most = [None if one is None else one * 1.2 for one in cpu]
            return {"at": at, "cpu_percent": cpu, "cpu_max": most, "memory_bytes": [memory] * 60}

        parts = {
            "machine": part(45, 9_000_000_000),
            "main": part(30, 4_800_000_000),
            "background": part(9, 2_100_000_000),
            "node": part(1, 90_000_000),
        }
        own = {"machine": part(12, 5_000_000_000), "master": part(2, 110_000_000)}
        nodes = [{"node": "pc2", "parts": parts}, {"node": "master on pc1", "parts": own}]
        return JSONResponse({"hours": float(hours), "step_s": step, "nodes": nodes})

    async def keep(self, request: Request) -> Response:
        body = await request.json()
        self.archived.append(body)
        created = self.archived.count(body) == 1
        return JSONResponse({"archive_id": "a1", "status": "queued", "created": created}, 202)

    async def found(self, request: Request) -> Response:
        words = request.query_params.get("q", "").lower()
        found = [one for one in self.archives if words in one["title"].lower()]
        return JSONResponse({"archives": found, "next_cursor": None})

    async def one(self, request: Request) -> Response:
        id_ = request.path_params["id"]
        found = next((one for one in self.archives if one["id"] == id_), None)
        if found is None:
            return JSONResponse({"title": "Not found", "detail": f"there is no archive {id_}"}, 404)
        if request.method == "DELETE":
            self.archives.remove(found)
            return Response(status_code=204)
        more = {
            "markdown": MARKDOWN,
            "session_ids": ["s1"],
            "token_usage": {"total_tokens": 1234},
            "related": [{"id": "a2", "title": "Caching", "score": 0.4, "shared_terms": ["api", "burst"]}],
        }
        return JSONResponse({**found, **more})

    def routes(self) -> list[Route]:
        base = "/api/background"
        return [
            Route(f"{base}/status", self.status),
            Route(f"{base}/jobs", self.listed),
            Route(f"{base}/jobs/{{id}}/{{verb}}", self.change, methods=["POST"]),
            Route(f"{base}/dead", self.dead_letters),
            Route(f"{base}/dead/replay", self.dead_letters, methods=["POST"]),
            Route(f"{base}/dead/{{id}}", self.change, methods=["DELETE"]),
            Route(f"{base}/pause", self.queue, methods=["POST"]),
            Route(f"{base}/resume", self.queue, methods=["POST"]),
            Route(f"{base}/register_activity", self.activity_told, methods=["POST"]),
            Route("/api/cluster/usage", self.used),
            Route("/api/conversation/archive/background", self.keep, methods=["POST"]),
            Route("/api/structured_archives", self.found),
            Route("/api/structured_archive/{id}", self.one, methods=["GET", "DELETE"]),
        ]
