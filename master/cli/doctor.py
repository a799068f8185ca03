"""`council doctor`: what is wrong on this machine and in the cluster, and what to type."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from master.cli.options import ConfigOption, JsonOption, KeyOption, UrlOption

if TYPE_CHECKING:
    from pathlib import Path

    from master.cli.checks import Finding
    from master.cli.locate import Located

OLLAMA_DEFAULT = "http://127.0.0.1:11434"
_ANSWERING = ("healthy", "degraded", "draining")
_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def doctor(
    url: UrlOption = None, key: KeyOption = None, config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """Check this machine, the master, its nodes, engines and models. Exit 1 when something fails."""
    from master.cli.interrupts import run
    from master.cli.terminal import print_json

    found = run(examine(url, key, config))
    failed = any(one.level == "fail" for one in found)
    if as_json:
        from dataclasses import asdict

        print_json({"healthy": not failed, "findings": [asdict(one) for one in found]})
    else:
        _print(found)
    raise typer.Exit(1 if failed else 0)


async def examine(url: str | None, key: str | None, config: Path | None) -> list[Finding]:
    """Every finding, in the order in which they explain each other."""
    from master.cli import checks
    from master.cli.locate import Located, health_here, reach

    found = [checks.python_version()]
    finding, master, node = checks.settings(config)
    found += [finding, *checks.environment(), checks.embedded_engine()]
    address, answered = url, None
    if master is not None and node is not None:
        found += checks.data_folder(master.data_dir)
        here = await health_here(master.host, master.port)
        beside = await health_here(node.host, node.port)
        found.append(checks.port("master", master.host, master.port, ours=here.get("role") == "master"))
        found.append(checks.port("node", node.host, node.port, ours=beside.get("role") == "worker"))
        if beside.get("role") == "worker":
            found.append(_node_here(beside))
        found.append(await _ollama(node.ollama_base_url))
        key = key or master.key
        address = address or await _running_here(master)
    if address is not None:
        address = address if "://" in address else f"http://{address}"
        answered = await reach(address)
    found.append(_master(url, address, answered.health if answered is not None else None))
    if address is not None and answered is not None and answered.is_master:
        found += await _cluster(Located(address, key, answered.verify))
    return found


def _node_here(health: dict[str, Any]) -> Finding:
    """The node of this PC as it tells everybody; what its master thinks of it is told there."""
    from master.cli.checks import Finding

    told = f"{health.get('name')} {health.get('version')}: {health.get('status')}"
    if health.get("status") == "healthy":
        return Finding("ok", "node here", told)
    checks = ", ".join(f"{name} {state}" for name, state in (health.get("checks") or {}).items())
    level: Any = "fail" if health.get("status") == "unhealthy" else "warn"
    return Finding(level, "node here", f"{told} ({checks})")


async def _running_here(settings: Any) -> str | None:
    from master.cli.addresses import local_addresses
    from master.cli.locate import probe

    for address in local_addresses(settings):
        if (await probe(address) or {}).get("role") == "master":
            return address
    return None


def _master(url: str | None, address: str | None, health: dict[str, Any] | None) -> Finding:
    from master.cli.checks import Finding

    if health is None:
        if url is not None:
            return Finding(
                "fail", "master", f"no master answers at {url}", "is it started? `council up` there"
            )
        return Finding("warn", "master", "none runs here; `council ask` brings up its own", "council up")
    if health.get("role") == "untrusted":
        from master.cli.trust import HINT

        return Finding("fail", "master", f"the certificate of {address} is not trusted here", HINT)
    if health.get("role") != "master":
        return Finding("fail", "master", f"what answers at {address} is no master", "name it with --url")
    told = f"{health.get('name')} {health.get('version')} at {address}: {health.get('status')}"
    checks = ", ".join(f"{name} {state}" for name, state in (health.get("checks") or {}).items())
    if health.get("status") == "healthy":
        return Finding("ok", "master", told)
    level: Any = "fail" if health.get("status") == "unhealthy" else "warn"
    return Finding(level, "master", f"{told} ({checks})", "the lines below say where")


async def _ollama(base_url: str | None) -> Finding:
    """The Ollama of this machine: asked for by its user, or found at its usual place, or none."""
    import httpx

    from master.cli.checks import Finding

    address = (base_url or OLLAMA_DEFAULT).rstrip("/")
    address = address if "://" in address else f"http://{address}"
    try:
        async with httpx.AsyncClient(timeout=3.0, trust_env=False) as http:
            version = (await http.get(f"{address}/api/version")).json().get("version")
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, AttributeError):
        if base_url is None:
            return Finding("ok", "ollama", "none here; the embedded llama.cpp serves")
        return Finding(
            "fail", "ollama", f"{address} does not answer", "ollama serve, or unset OLLAMA_BASE_URL"
        )
    return Finding("ok", "ollama", f"{version} at {address}")


async def _cluster(master: Located) -> list[Finding]:
    from master.cli.checks import Finding
    from master.cli.client import MasterClient
    from master.cli.failure import CommandFailedError

    try:
        async with MasterClient(master.url, master.key, verify=master.verify) as client:
            workers = (await client.get("/api/cluster/workers"))["workers"]
            models = (await client.get("/api/council/models"))["models"]
    except CommandFailedError as error:
        return [Finding("fail", "cluster", error.message, error.hint)]
    found = [part for worker in workers for part in _worker(worker)]
    if not workers:
        found.append(Finding("fail", "nodes", "the master knows no node", "council worker add URL"))
    real = [one for one in models if not one.get("practice")]
    if not models and any(worker.get("state") in _ANSWERING for worker in workers):
        found.append(Finding("fail", "models", "no node has a model", "council models pull qwen2.5:0.5b"))
    elif not models:
        found.append(Finding("fail", "models", "none: no node answers"))
    elif not real:
        hint = "council models get qwen2.5:0.5b"
        found.append(Finding("warn", "models", "only practice models: their text means nothing", hint))
    else:
        found.append(Finding("ok", "models", ", ".join(str(one["name"]) for one in real)))
    return found


def _worker(worker: dict[str, Any]) -> list[Finding]:
    from master.cli.checks import Finding

    name, state = f"node {worker['name']}", str(worker.get("state"))
    told = f"{worker.get('url')}: {state}" + (f" ({worker['error']})" if worker.get("error") else "")
    if state in _ANSWERING:
        hint = f"council worker resume {worker['name']}" if state == "draining" else None
        found = [Finding("ok" if state == "healthy" else "warn", name, told, hint)]
    else:
        hint = f"is it started on that PC? `council node start`; else: council worker remove {worker['name']}"
        found = [Finding("fail", name, told, hint)]
    for engine in worker.get("engines") or []:
        if isinstance(engine, dict) and engine.get("status") not in (None, "connected"):
            which = "background engine" if engine.get("name") == "background" else "engine"
            where = f"{engine.get('kind')} at {engine.get('address')} is {engine.get('status')}"
            found.append(Finding("fail", f"{name} {which}", where, "start the engine on that PC"))
    return found


def _print(found: list[Finding]) -> None:
    from rich.text import Text

    from master.cli.printable import printable
    from master.cli.terminal import console

    out = console()
    for one in found:
        line = Text(f"{one.level:<5}", style=_STYLES[one.level])
        line.append(f"{printable(one.what):<18} {printable(one.told)}", style="not bold default")
        out.print(line, soft_wrap=True)
        if one.hint and one.level != "ok":
            out.print(Text(f"      try: {printable(one.hint)}", style="dim"), soft_wrap=True)
