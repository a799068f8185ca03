"""`council worker token`: what another PC needs to join."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer

from master.cli.options import JsonOption, KeyOption, UrlOption

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 24 * 3600}
_LONGEST_S = 7 * _UNITS_S["d"]


def token(
    ttl: Annotated[str, typer.Option("--ttl", help="How long it works: 30s, 15m, 2h, 7d at most.")] = "15m",
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the command with which one other PC joins, once and soon."""
    from master.cli.locate import call_master
    from master.cli.terminal import print_json, tell

    body = {"ttl_s": seconds(ttl)}
    made = call_master(url, key, lambda master: master.post("/api/cluster/tokens", body))
    if as_json:
        print_json(made)
        return
    tell(f"On the other PC, within {ttl}:")
    typer.echo(made["command"])
    for line in warnings(made):
        tell(line)


def warnings(made: dict[str, Any]) -> list[str]:
    """What to know about the address in the line that was printed."""
    from urllib.parse import urlsplit

    from common.security import is_loopback

    if made.get("loopback_only"):
        return [
            "This master listens on its own machine only, so that works here alone; for other PCs start it "
            "with --host 0.0.0.0 and a COUNCIL_KEY"
        ]
    url = urlsplit(str(made["url"]))
    anew = (
        f"`council worker token --url {url.scheme}://ADDRESS:{url.port}`, with the address at which the "
        "other PC reaches this one"
    )
    if is_loopback(url.hostname or ""):
        return [
            "warning: this PC has no address in a network, so that line works here alone. Connect it and "
            f"type this again, or {anew}"
        ]
    others = made.get("other_urls") or []
    if not others:
        return []
    return [f"This PC is also at {', '.join(others)}. If the other PC does not reach the one above: {anew}"]


def seconds(text: str) -> float:
    """`90s`, `15m`, `2h`, `1d` as seconds. Raises `UsageFailedError`."""
    from master.cli.failure import UsageFailedError

    found = re.fullmatch(r"(\d{1,6})([smhd])", text.strip())
    if found is None:
        raise UsageFailedError(f"{text!r} is no length of time", hint="write it like 90s, 15m, 2h or 1d")
    asked_s = int(found[1]) * _UNITS_S[found[2]]
    if not 1 <= asked_s <= _LONGEST_S:
        raise UsageFailedError(f"a token works for 1 s to 7 days, not for {text.strip()}")
    return asked_s
