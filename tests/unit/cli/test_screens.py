"""What is drawn fits the terminal and says what has to be known."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text

from master.cli.live import render
from master.cli.plain import PlainPrinter
from master.cli.report import banner, final_answer, latency_table, report
from master.cli.watch import STAGES, Watch


def running(agents: int, text: str = "word " * 400) -> Watch:
    seen = Watch("1")
    seen.seat({"agents": [{"agent_id": f"agent_{n}", "model": "[red]m[/red]"} for n in range(1, agents + 1)]})
    seen.apply({"seq": 1, "type": "stage.started", "stage": "opinions"}, 0.0)
    for number in range(1, agents + 1):
        where = {"stage": "opinions", "agent_id": f"agent_{number}"}
        seen.apply({"seq": seen.seq + 1, "type": "call.started", **where, "node": "pc1"}, 0.0)
        seen.apply(
            {"seq": seen.seq + 1, "type": "call.delta", **where, "channel": "answer", "text": text}, 1.0
        )
    return seen


@pytest.mark.parametrize("agents", [1, 2, 3, 5, 16])
@pytest.mark.parametrize(("width", "height"), [(80, 24), (40, 12), (200, 60), (20, 5)])
def test_the_panels_never_outgrow_the_terminal(agents: int, width: int, height: int) -> None:
    out = io.StringIO()
    console = Console(file=out, width=width, height=height, force_terminal=True, color_system=None)
    console.print(render(running(agents), 2.0, console))
    lines = out.getvalue().splitlines()
    assert len(lines) <= height
    assert "agent_1" in out.getvalue()


@pytest.mark.parametrize(
    ("guess", "shown"), [({"estimate_s": 41.6}, "starts in about 42 s"), ({}, "place 2)")]
)
def test_a_seat_that_waits_says_its_place_and_when_it_starts(guess: dict[str, Any], shown: str) -> None:
    seen = running(1)
    where = {"stage": "opinions", "agent_id": "agent_1"}
    seen.apply({"seq": seen.seq + 1, "type": "call.queued", **where, "position": 2, **guess}, 1.0)
    out = io.StringIO()
    console = Console(file=out, width=100, height=24, force_terminal=True, color_system=None)
    console.print(render(seen, 2.0, console))
    assert "queued (place 2)" in out.getvalue()
    assert shown in out.getvalue()
    assert ("starts in" in out.getvalue()) is bool(guess)


def test_a_panel_says_why_its_text_began_anew() -> None:
    seen = running(1, "Hello")
    where = {"stage": "opinions", "agent_id": "agent_1"}
    lost = {"from_node": "pc1", "to_node": "pc2", "reason": "node_frozen"}
    seen.apply({"seq": seen.seq + 1, "type": "call.restarted", **where, **lost}, 2.0)
    seen.apply({"seq": seen.seq + 1, "type": "call.started", **where, "node": "pc2"}, 2.0)
    seen.apply({"seq": seen.seq + 1, "type": "call.delta", **where, "channel": "answer", "text": "Hi"}, 2.0)
    out = io.StringIO()
    console = Console(file=out, width=100, height=10, color_system=None)
    console.print(render(seen, 3.0, console))
    assert "began anew: node frozen on pc1" in out.getvalue()


def test_a_panel_shows_the_end_of_a_long_answer() -> None:
    out = io.StringIO()
    console = Console(file=out, width=80, height=24, force_terminal=True, color_system=None)
    console.print(render(running(2, "begin " + "x " * 5000 + "the end"), 2.0, console))
    assert "the end" in out.getvalue()
    assert "begin" not in out.getvalue()
    assert "[red]m[/red]" in out.getvalue()


def session(**fields: Any) -> dict[str, Any]:
    return {
        "id": "1", "conversation_id": "2", "state": "completed", "result": "full",
        "agents": [{"agent_id": "agent_1", "model": "a", "opinion": "One."},
                   {"agent_id": "agent_2", "model": "b", "opinion": "Two."}],
        **fields,
    }  # fmt: skip


def lines(given: dict[str, Any]) -> str:
    return "\n".join(line.plain for line in banner(given))


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"result": "degraded", "missing_agents": ["agent_3"]}, "degraded. Missing: agent_3"),
        ({"result": "single", "missing_agents": ["agent_2"]}, "Missing: agent_2"),
        ({"state": "failed", "error": {"detail": "no quorum"}}, "failed: no quorum"),
        ({"state": "cancelled"}, "cancelled"),
        ({"practice": True}, "Practice models"),
        ({"contested": True}, "Contested"),
        ({"warnings": ["a node was lost"]}, "a node was lost"),
        ({"trimmed": [{"stage": "review", "agent_id": "agent_1", "what": "an answer", "characters": 9}]},
         "an answer (review of agent_1, 9 characters)"),
    ],
)  # fmt: skip
def test_the_banner_says_what_has_to_be_known(fields: dict[str, Any], told: str) -> None:
    assert told in lines(session(**fields))


def test_a_top_ranked_answer_is_never_called_a_synthesis() -> None:
    synthesis = {"text": "Two.", "model": "b", "node": "pc1", "kind": "top_ranked"}
    text, label = final_answer(session(synthesis=synthesis))
    assert text == "Two."
    assert "synthesis" not in label
    assert "no chairman answered" in label


def test_a_single_session_shows_its_one_answer() -> None:
    text, label = final_answer(session(result="single", top_answer="agent_2"))
    assert text == "Two."
    assert "agent_2" in label


def test_a_session_without_an_answer_shows_none() -> None:
    assert final_answer(session(state="failed", result=None)) == ("", "")


@pytest.mark.parametrize("shown", [{}, {"agents": None, "ballots": None, "token_usage": None, "id": None}])
def test_a_bare_session_can_be_reported(shown: dict[str, Any]) -> None:
    out = io.StringIO()
    for part in report(session(**shown), markdown=True):
        Console(file=out, width=100).print(part)
    assert "session" in out.getvalue()


def test_the_latency_of_each_seat_fits_a_common_terminal() -> None:
    parts = ("queue", "load", "prompt", "generate", "network", "first_token", "total")
    seat = {"node": "pc2", **{f"{part}_ms": 12345 for part in parts}}
    stages = {f"stage{n}_{name}": {"by_agent": {"chairman": seat}} for n, name in enumerate(STAGES, 1)}
    out = io.StringIO()
    Console(file=out, width=80).print(latency_table(session(latency_stats=stages)))
    rows = [line.split() for line in out.getvalue().splitlines() if "chairman" in line]
    assert rows == [[name, "chairman", "pc2", *["12345"] * 7] for name in STAGES]


def test_an_abstention_and_an_unseen_answer_are_no_scores() -> None:
    ballots = [
        {"reviewer": "agent_1", "abstained": True, "reason": "no valid ballot", "rankings": []},
        {"reviewer": "agent_2", "abstained": False, "rankings": [{"agent_id": "agent_1", "score": 7}]},
    ]
    out = io.StringIO()
    for part in report(session(ballots=ballots), markdown=False):
        Console(file=out, width=100).print(part)
    assert "agent_1 abstained: no valid ballot" in out.getvalue()
    assert any(line.split() == ["agent_2", "7", "-"] for line in out.getvalue().splitlines())


def test_markdown_of_a_model_is_no_markup_of_the_terminal() -> None:
    synthesis = {"text": "[bold]x[/bold] <script>", "model": "b", "kind": "chairman"}
    parts = list(report(session(synthesis=synthesis), markdown=False))
    assert any(isinstance(part, Text) and part.plain == "[bold]x[/bold] <script>" for part in parts)


def test_a_plain_line_is_printed_when_it_is_whole() -> None:
    out = io.StringIO()
    printer = PlainPrinter(out)
    seen = running(1, "first\nsecond")
    printer.update(seen)
    assert "agent_1 | first\n" in out.getvalue()
    assert "second" not in out.getvalue()
    seen.apply(
        {"seq": seen.seq + 1, "type": "call.completed", "stage": "opinions", "agent_id": "agent_1"}, 2.0
    )
    printer.update(seen)
    printer.update(seen)
    assert out.getvalue().count("agent_1 | second\n") == 1
