"""`council worker list --discover`: nodes on this LAN that say they are there, and how each is added."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from master.cli.terminal import print_json, print_table, tell


def show(known: list[dict[str, Any]], as_json: bool) -> None:
    """Look for nodes and show those that the master does not know. What they say of themselves is a claim."""
    from common.discovery import look
    from master.cli.addresses import load_settings
    from master.cli.failure import CommandFailedError
    from master.cli.interrupts import run
    from master.cli.printable import printable

    if not load_settings().discovery:
        raise CommandFailedError("looking on the LAN is switched off", hint="unset COUNCIL_DISCOVERY")
    addresses = {one["url"] for one in known}
    found = [one for one in run(look("node")) if one.url not in addresses]
    if as_json:
        print_json({"candidates": [asdict(one) for one in found]})
        return
    print_table(
        "Candidates",
        ["says its name is", "address", "says its fingerprint is"],
        [[printable(one.name), one.url, printable(one.fingerprint or "-")] for one in found],
        empty="No other node of this LAN says that it is there.",
    )
    if found:
        tell(
            "Anybody can say that. To add one: type `council worker token` here, and the line that it prints "
            "on that PC, or here the `council worker add …` line that the node printed when it started."
        )
