"""A session as a Markdown document: result, answer, ranking, opinions, ballots, tokens and latency."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from common.usage import StageLatencyStats, StageTokenUsage
from master.council.view import CouncilSession

_TITLE_CHARACTERS = 120
_KINDS = {
    "chairman": "written by the chairman",
    "fallback_chairman": "written by a fall-back chairman",
    "top_ranked": "no chairman could write: this is the top-ranked answer, word for word",
}
_RESULTS = {
    "full": "every agent answered and reviewed, and a chairman concluded",
    "degraded": "not every part of the council took part",
    "single": "one voice only: no review, no synthesis",
}


def markdown(session: CouncilSession) -> str:
    """The whole session. Answers keep their own Markdown; other people's text in tables is escaped."""
    sections = [
        _banner(session),
        _answer(session),
        _ranking(session),
        _opinions(session),
        _ballots(session),
        _figures(session),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _banner(session: CouncilSession) -> str:
    title = _one_line(session.question)
    whole = len(title) <= _TITLE_CHARACTERS and "\n" not in session.question.strip()
    lines = [f"# {_cell(title if whole else title[:_TITLE_CHARACTERS] + '…')}", ""]
    if session.result is None:
        lines.append(f"> **Not completed**: the session is {session.state}.")
    else:
        lines.append(f"> **Result: {session.result}**: {_RESULTS[session.result]}.")
    if session.missing_agents:
        lines.append(f"> Missing: {', '.join(session.missing_agents)}.")
    if session.practice:
        lines.append("> Practice models: the text has no meaning.")
    if session.contested:
        lines.append("> Contested: the reviewers do not agree on the order.")
    if session.error is not None:
        lines.append(f"> Error: {_one_line(str(session.error.get('detail')))}")
    lines += [f"> Warning: {_one_line(text)}" for text in session.warnings]
    lines += [
        f"> Left out in {trim.stage} of {trim.agent_id}: {trim.what}, {trim.characters:,} characters."
        for trim in session.trimmed
    ]
    # Two spaces at the end keep the lines of the quotation apart.
    lines[2:] = [f"{line}  " for line in lines[2:]]
    if not whole:
        lines += ["", "## Question", "", session.question]
    return "\n".join(lines)


def _answer(session: CouncilSession) -> str:
    if session.synthesis is not None:
        note = f"*{_KINDS[session.synthesis.kind]} ({_cell(session.synthesis.model)})*"
    elif session.answer is not None and session.result == "single":
        note = f"*the answer of {session.top_answer}*"
    else:
        return ""
    return f"## Answer\n\n{note}\n\n{session.answer}"


def _ranking(session: CouncilSession) -> str:
    if not session.ranking:
        return ""
    models = {agent.agent_id: agent.model for agent in session.agents}
    rows = [
        (one.rank, one.agent_id, models[one.agent_id], f"{one.borda:.2f}", f"{one.mean_score:.1f}", one.votes)
        for one in session.ranking
    ]
    agreement = (
        "" if session.agreement is None else f"\n\nAgreement of the reviewers: {session.agreement:.2f}"
    )
    table = _table(("rank", "agent", "model", "Borda", "mean score", "votes"), rows)
    return f"## Ranking\n\n{table}{agreement}"


def _opinions(session: CouncilSession) -> str:
    parts = ["## Opinions"]
    for agent in session.agents:
        persona = f", {_one_line(agent.persona)}" if agent.persona else ""
        parts.append(f"### {agent.agent_id} ({_one_line(agent.model)}{persona})")
        if agent.opinion is not None:
            parts.append(agent.opinion)
        elif agent.error is not None:
            parts.append(f"*no answer: {_one_line(str(agent.error.get('detail')))}*")
        else:
            parts.append("*no answer*")
    return "\n\n".join(parts)


def _ballots(session: CouncilSession) -> str:
    if not session.ballots:
        return ""
    rows: list[tuple[object, ...]] = []
    for ballot in session.ballots:
        if ballot.abstained:
            rows.append((ballot.reviewer, "-", "-", f"abstained: {ballot.reason}"))
        rows += [(ballot.reviewer, one.agent_id, one.score, one.reasoning) for one in ballot.rankings]
    return "## Ballots\n\n" + _table(("reviewer", "answer of", "score", "reasoning"), rows)


def _figures(session: CouncilSession) -> str:
    usage, latency = session.token_usage, session.latency_stats
    stages = [
        (usage.stage1_opinions, latency.stage1_opinions),
        (usage.stage2_review, latency.stage2_review),
        (usage.stage3_synthesis, latency.stage3_synthesis),
    ]
    rows: list[tuple[object, ...]] = [
        (
            tokens.stage,
            f"{tokens.total_prompt_tokens:,}",
            f"{tokens.total_completion_tokens:,}",
            f"{tokens.total_tokens:,}",
            _seconds(times.duration_ms),
        )
        for tokens, times in stages
        if tokens is not None and times is not None
    ]
    rows.append(
        (
            "total",
            f"{usage.total_prompt_tokens:,}",
            f"{usage.total_completion_tokens:,}",
            f"{usage.total_tokens:,}",
            _seconds(latency.total_duration_ms),
        )
    )
    parts = ["## Tokens and latency", _table(("stage", "prompt", "completion", "tokens", "duration"), rows)]
    parts += [_table(("stage", "model", "prompt", "completion"), list(_by_model(t for t, _ in stages)))]
    parts += [
        _table(
            ("stage", "agent", "node", "queue", "load", "prompt", "generate", "network", "total", "tokens/s"),
            list(_by_agent(times for _, times in stages)),
        )
    ]
    return "\n\n".join(parts)


def _by_model(stages: Iterable[StageTokenUsage | None]) -> Iterator[tuple[object, ...]]:
    for stage in filter(None, stages):
        for model, tokens in stage.by_model.items():
            yield stage.stage, model, f"{tokens.prompt_tokens:,}", f"{tokens.completion_tokens:,}"


def _by_agent(stages: Iterable[StageLatencyStats | None]) -> Iterator[tuple[object, ...]]:
    for stage in filter(None, stages):
        for agent, one in stage.by_agent.items():
            times = (one.queue_ms, one.load_ms, one.prompt_ms, one.generate_ms, one.network_ms, one.total_ms)
            spans = (_seconds(time) for time in times)
            yield stage.stage, agent, one.node or "-", *spans, f"{one.tokens_per_second:.1f}"


def _seconds(milliseconds: float) -> str:
    return f"{milliseconds / 1000:.2f} s"


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    if not rows:
        return ""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(str(cell)) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    """Text that cannot leave its cell or become markup."""
    return re.sub(r"([\\`*\[\]<>|])", r"\\\1", _one_line(text))


def _one_line(text: str) -> str:
    return " ".join(text.split())
