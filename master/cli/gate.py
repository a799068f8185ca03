"""`council jobs gate`: whether background work may run, and why not."""

from __future__ import annotations

from typing import Any

import typer

from master.cli.options import JsonOption, KeyOption, UrlOption


def gate(url: UrlOption = None, key: KeyOption = None, as_json: JsonOption = False) -> None:
    """Show whether background work may run now, and why or why not, on each machine."""
    from master.cli.locate import call_master
    from master.cli.terminal import print_json, print_table

    found = call_master(url, key, lambda master: master.get("/api/background/gate"))
    if as_json:
        print_json(found)
        return
    typer.echo(found["reason"])
    if found["open"] and not found["open_for_long_jobs"]:
        typer.echo(f"long jobs: {found['reason_for_long_jobs']}")
    night, usual = found["night"], found["habits"]["usual"]
    if night["enabled"]:
        typer.echo(f"night: {night['start']}:00 to {night['end']}:00")
    if usual:
        typer.echo(f"people are usually active {'; '.join(usual)}")
    print_table(
        "Machines",
        ["machine", "state", "CPU of others", "memory of others", "why"],
        [
            [one["node"], one["state"], _percent(one["foreign_cpu"]), _percent(one["foreign_memory"]),
             one["reason"]]
            for one in found["nodes"]
        ],
        empty="No machine has told its CPU and memory yet.",
    )  # fmt: skip


def use_rows(use: dict[str, dict[str, Any]]) -> list[list[object]]:
    """Rows of a table: part, CPU of the whole machine, memory."""
    from master.cli.terminal import human_size

    return [
        [part, _percent(one["cpu_percent"], 1), human_size(one["memory_bytes"])] for part, one in use.items()
    ]


def _percent(share: float | None, whole: float = 100) -> str | None:
    return None if share is None else f"{share * whole:.0f} %"
