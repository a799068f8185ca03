"""The end of a session: banner, ranking, ballots, answer, tokens and latency, as Rich renderables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich import box
from rich.console import RenderableType
from rich.markdown import Markdown
from rich.table import Table
from rich.text import Text

from master.cli.failure import describe_error
from master.cli.printable import one_line, printable

Session = dict[str, Any]
_STAGE_KEYS = (
    ("opinions", "stage1_opinions"),
    ("review", "stage2_review"),
    ("synthesis", "stage3_synthesis"),
)
_KINDS = {
    "chairman": "the chairman's synthesis",
    "fallback_chairman": "the synthesis of a fall-back chairman",
    "top_ranked": "the top-ranked answer as it is: no chairman answered",
}


def final_answer(session: Session) -> tuple[str, str]:
    """The answer and what it is. Both empty when there is none."""
    synthesis = session.get("synthesis")
    if synthesis and synthesis.get("text"):
        kind = _KINDS.get(str(synthesis.get("kind")), str(synthesis.get("kind")))
        author = " on ".join(part for part in (synthesis.get("model"), synthesis.get("node")) if part)
        return printable(synthesis["text"]), printable(f"{kind} ({author})" if author else kind)
    for agent in session.get("agents") or []:
        if agent.get("opinion") and agent.get("agent_id") == session.get("top_answer"):
            return printable(agent["opinion"]), printable(
                f"the answer of {agent['agent_id']} ({agent.get('model')})"
            )
    done = [agent for agent in session.get("agents") or [] if agent.get("opinion")]
    if session.get("result") == "single" and len(done) == 1:
        return printable(done[0]["opinion"]), printable(
            f"the answer of {done[0]['agent_id']} ({done[0].get('model')})"
        )
    return "", ""


def banner(session: Session) -> Iterator[Text]:
    """What must be known before the answer is read, one line each."""
    state, result = session.get("state"), session.get("result")
    missing = ", ".join(printable(name) for name in session.get("missing_agents") or [])
    if state == "failed":
        yield Text(f"The council failed: {one_line(describe_error(session.get('error')))}", style="bold red")
    elif state == "cancelled":
        yield Text("The council was cancelled.", style="bold yellow")
    elif result == "full":
        yield Text("Result: full. Every seat answered.", style="bold green")
    elif result == "degraded":
        yield Text(f"Result: degraded. Missing: {missing or 'see the warnings'}.", style="bold yellow")
    elif result == "single":
        lost = f" Missing: {missing}." if missing else ""
        yield Text(f"Result: single. One answer, no review and no synthesis.{lost}", style="bold yellow")
    if session.get("practice"):
        yield Text(
            "Practice models answered: real machinery, meaningless text. "
            "`council models recommended` names real ones.",
            style="yellow",
        )
    if session.get("cached"):
        yield Text("The answer comes from the cache.", style="dim")
    if session.get("contested"):
        yield Text("Contested: the reviewers disagree about the order.", style="yellow")
    trimmed = session.get("trimmed") or []
    if trimmed:
        yield Text(
            f"Trimmed to fit the context: {', '.join(one_line(_trim(one)) for one in trimmed)}",
            style="yellow",
        )
    for text in session.get("warnings") or []:
        yield Text(f"Warning: {one_line(text, 400)}", style="yellow")
    for agent in session.get("agents") or []:
        if agent.get("error"):
            name = f"{agent.get('agent_id')} ({agent.get('model')})"
            yield Text(f"{printable(name)}: {one_line(describe_error(agent['error']))}", style="red")


def _trim(entry: object) -> str:
    if not isinstance(entry, dict):
        return str(entry)
    place = f"{entry.get('stage')} of {entry.get('agent_id')}"
    return f"{entry.get('what')} ({place}, {entry.get('characters')} characters)"


def ranking_table(session: Session) -> Table | None:
    ranking = session.get("ranking") or []
    if not ranking:
        return None
    agents = {agent["agent_id"]: agent for agent in session.get("agents") or []}
    agreement = session.get("agreement")
    title = "Ranking" + (f" (agreement {agreement:.2f})" if isinstance(agreement, int | float) else "")
    table = _table(
        title, "rank", "agent", "model", "node", "Borda", "mean score", "votes", right=(0, 4, 5, 6)
    )
    for row in ranking:
        agent = agents.get(row["agent_id"], {})
        table.add_row(
            str(row.get("rank")),
            _cell(row["agent_id"]),
            _cell(agent.get("model")),
            _cell(agent.get("node")),
            _number(row.get("borda"), 2),
            _number(row.get("mean_score"), 1),
            str(row.get("votes", "")),
        )
    return table


def ballot_matrix(session: Session) -> Table | None:
    """Reviewer by answer, with the scores given; a reviewer does not see its own answer."""
    ballots = session.get("ballots") or []
    if not ballots:
        return None
    answers = [agent["agent_id"] for agent in session.get("agents") or []]
    table = _table("Ballots (reviewer by answer)", "reviewer", *answers, right=range(1, len(answers) + 1))
    for ballot in ballots:
        reviewer = ballot["reviewer"]
        if ballot.get("abstained"):
            reason = Text("abstained", style="yellow")
            table.add_row(_cell(reviewer), *([reason] + [Text("")] * (len(answers) - 1) if answers else []))
            continue
        scores = {entry["agent_id"]: entry.get("score") for entry in ballot.get("rankings") or []}
        table.add_row(
            _cell(reviewer),
            *(Text("-" if name == reviewer else _number(scores.get(name), 0)) for name in answers),
        )
    return table


def abstentions(session: Session) -> Iterator[Text]:
    for ballot in session.get("ballots") or []:
        if ballot.get("abstained") and ballot.get("reason"):
            reason = one_line(describe_error(ballot["reason"]))
            yield Text(f"{printable(ballot['reviewer'])} abstained: {reason}", style="dim")


def figures_table(session: Session) -> Table | None:
    """Tokens and time by stage, and by model under each stage."""
    usage, latency = session.get("token_usage") or {}, session.get("latency_stats") or {}
    if not any(usage.get(key) or latency.get(key) for _, key in _STAGE_KEYS):
        return None
    table = _table(
        "Tokens and latency",
        "stage",
        "model",
        "prompt",
        "answer",
        "total",
        "time",
        "tok/s",
        right=range(2, 7),
    )
    for stage, key in _STAGE_KEYS:
        of_usage, of_latency = usage.get(key) or {}, latency.get(key) or {}
        if not of_usage and not of_latency:
            continue
        table.add_row(
            Text(stage, style="bold"),
            "",
            str(of_usage.get("total_prompt_tokens", 0)),
            str(of_usage.get("total_completion_tokens", 0)),
            str(of_usage.get("total_tokens", 0)),
            _seconds(of_latency.get("duration_ms")),
            "",
        )
        for model, tokens in (of_usage.get("by_model") or {}).items():
            times = _times_of(session, model, stage, of_latency.get("by_agent") or {})
            table.add_row(
                "",
                _cell(model),
                str(tokens.get("prompt_tokens", 0)),
                str(tokens.get("completion_tokens", 0)),
                str(tokens.get("total_tokens", 0)),
                _seconds(max((one.get("total_ms") or 0 for one in times), default=None)),
                _speed(times),
            )
    table.add_section()
    table.add_row(
        Text("session", style="bold"),
        "",
        str(usage.get("total_prompt_tokens", 0)),
        str(usage.get("total_completion_tokens", 0)),
        str(usage.get("total_tokens", 0)),
        _seconds(latency.get("total_duration_ms")),
        "",
    )
    return table


def latency_table(session: Session) -> Table | None:
    """Where the time of each seat went, stage by stage, in milliseconds."""
    parts = ("queue_ms", "load_ms", "prompt_ms", "generate_ms", "network_ms", "first_token_ms", "total_ms")
    table = _table(
        "Latency by seat (ms)", "stage", "seat", "node", *(part[:-3].replace("_", "\n") for part in parts),
        right=range(3, 10),
    )  # fmt: skip
    table.padding = 0  # ten columns on a terminal of 80
    for stage, key in _STAGE_KEYS:
        for agent_id, one in (
            ((session.get("latency_stats") or {}).get(key) or {}).get("by_agent") or {}
        ).items():
            table.add_row(
                stage,
                _cell(agent_id),
                _cell(one.get("node")),
                *(_number(one.get(part), 0) for part in parts),
            )
    return table if table.row_count else None


def report(session: Session, *, markdown: bool, answered: str = "") -> Iterator[RenderableType]:
    """Everything about an ended session in reading order.

    `markdown`: render the answer as such, for terminals. `answered`: what the reader has seen of the answer
    already; the same text is not printed again.
    """
    blank = Text("")
    ranking, matrix = ranking_table(session), ballot_matrix(session)
    for table in (ranking, matrix):
        if table is not None:
            yield blank
            yield table
    yield from abstentions(session)
    yield blank
    yield from banner(session)
    answer, label = final_answer(session)
    if answer:
        yield blank
        shown = answer.strip() == answered.strip()
        yield Text(f"{'The answer above is' if shown else 'Answer:'} {label}", style="bold")
        if not shown:
            # Links are shown with their address: text that names one place must not lead to another.
            yield Markdown(answer, hyperlinks=False) if markdown else Text(answer)
    top, synthesis = session.get("top_answer"), session.get("synthesis")
    if top and synthesis and synthesis.get("kind") != "top_ranked":
        yield Text(
            f"The reviewers' first choice: {printable(top)} (`council sessions show` has its text).",
            style="dim",
        )
    for table in (figures_table(session), latency_table(session)):
        if table is not None:
            yield blank
            yield table
    yield Text(
        f"session {printable(session.get('id'))} · conversation {printable(session.get('conversation_id'))}",
        style="dim",
    )


def _table(title: str, *columns: str, right: Any = ()) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for index, name in enumerate(columns):
        table.add_column(printable(name), justify="right" if index in right else "left", overflow="fold")
    return table


def _cell(value: object) -> Text:
    return Text("-" if value is None else one_line(value, 80))


def _number(value: object, digits: int) -> str:
    return f"{value:.{digits}f}" if isinstance(value, int | float) else "-"


def _seconds(value: object) -> str:
    return f"{value / 1000:.2f} s" if isinstance(value, int | float) else "-"


def _times_of(session: Session, model: str, stage: str, by_agent: dict[str, Any]) -> list[dict[str, Any]]:
    models = {agent["agent_id"]: agent.get("model") for agent in session.get("agents") or []}
    if stage == "synthesis":
        models["chairman"] = (session.get("synthesis") or {}).get("model") or session.get("chairman")
    return [one for agent_id, one in by_agent.items() if models.get(agent_id) == model]


def _speed(times: list[dict[str, Any]]) -> str:
    speeds = [one["tokens_per_second"] for one in times if one.get("tokens_per_second")]
    return f"{sum(speeds) / len(speeds):.1f}" if speeds else "-"
