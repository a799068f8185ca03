"""`council worker show`: one node on the screen."""

from __future__ import annotations

from typing import Any

from master.cli.gate import use_rows
from master.cli.terminal import human_size, print_table


def print_worker(one: dict[str, Any]) -> None:
    """Tables of what `GET /api/cluster/workers/NAME` tells; what an older master leaves out is left out."""
    facts = ("name", "state", "reason", "url", "version", "slots", "running", "error")
    rows: list[list[object]] = [[fact, str(one[fact])] for fact in facts if one.get(fact) is not None]
    rows.append(["engines", engines(one)])
    if one.get("background"):
        rows.append(["background work", one["background"]])
    print_table("Node", ["what", "value"], [*rows, *_machine(one), *_calls(one)], empty="")
    use = use_rows(one.get("use") or {})
    if use:
        print_table("What it takes", ["part", "CPU", "memory"], use, empty="")
    speeds = {
        (str(each.get("model")), str(each.get("engine", "main"))): each
        for each in one.get("speeds") or []
        if each.get("model")
    }
    print_table(
        "Models",
        ["name", "engine", "size", "resident", "slots", "load s", "prompt tok/s", "answer tok/s"],
        [_model_row(model, speeds) for model in map(_as_model, one.get("models") or [])],
        empty="No models there. `council models pull MODEL --worker NAME` fetches one.",
    )


def engines(node: dict[str, Any]) -> str:
    """The engines of a node and how they are, in a few words; of one that does not answer nobody knows."""
    is_known = node.get("state") != "unreachable"
    told = [
        f"{_engine_name(one)} {one.get('status', '') if is_known else ''}".strip()
        if isinstance(one, dict)
        else str(one)
        for one in node.get("engines") or []
    ]
    return ", ".join(told) or "-"


def _engine_name(engine: dict[str, Any]) -> str:
    """The kind, and which of two engines it is."""
    kind = str(engine.get("kind") or engine.get("name"))
    return f"{kind} ({engine['name']})" if engine.get("name") == "background" else kind


def _machine(one: dict[str, Any]) -> list[list[object]]:
    system = one.get("system") or {}
    rows: list[list[object]] = []
    if system.get("cpu"):
        rows.append(["CPU", f"{system['cpu']['percent']:.0f} % of {system['cpu']['count']} cores"])
    if system.get("memory"):
        memory = system["memory"]
        rows.append(["memory", f"{memory['percent']:.0f} % of {human_size(memory['total'])}"])
    for gpu in system.get("gpus") or []:
        load = "?" if gpu.get("load_percent") is None else f"{gpu['load_percent']} %"
        used = f"{human_size(gpu['memory_used']) or 0} of {human_size(gpu['memory_total'])}"
        rows.append([f"GPU {gpu['index']}", f"{gpu['name']}: {load}, {used}"])
    history = one.get("history") or []
    for what, field in (("CPU, last hour", "cpu_percent"), ("memory, last hour", "memory_percent")):
        seen = [each[field] for each in history if each.get(field) is not None]
        if seen:
            rows.append([what, f"{sum(seen) / len(seen):.0f} % on average, {max(seen):.0f} % at most"])
    return rows


def _calls(one: dict[str, Any]) -> list[list[object]]:
    calls = one.get("calls")
    if not calls:
        return []
    if calls.get("error_rate") is None:
        return [["calls, last hour", "none"]]
    ended = calls["done"] + calls["failed"]
    why = ", ".join(f"{code} {count}" for code, count in calls.get("errors", {}).items())
    told = f"{ended}, of which {calls['failed']} failed ({calls['error_rate'] * 100:.0f} %)"
    return [["calls, last hour", f"{told}: {why}" if why else told]]


def _model_row(model: dict[str, Any], speeds: dict[tuple[str, str], dict[str, Any]]) -> list[object]:
    engine = model.get("engine", "main")
    speed = speeds.get((model["name"], engine), {})
    return [
        model["name"],
        engine,
        human_size(model.get("size")),
        "yes" if model.get("resident") else "no",
        model.get("slots"),
        speed.get("load_s"),
        speed.get("prompt_tokens_per_s"),
        speed.get("generate_tokens_per_s"),
    ]


def _as_model(model: Any) -> dict[str, Any]:
    return model if isinstance(model, dict) else {"name": str(model)}
