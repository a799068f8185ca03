"""`council master list`: the masters that share a database."""

from __future__ import annotations

from master.cli.options import JsonOption, KeyOption, UrlOption


def list_(url: UrlOption = None, key: KeyOption = None, as_json: JsonOption = False) -> None:
    """List the masters on the same PostgreSQL; with SQLite it is this one alone."""
    from master.cli.locate import call_master
    from master.cli.terminal import print_json, print_table

    found = call_master(url, key, lambda master: master.get("/api/cluster/masters"))
    if as_json:
        print_json(found)
        return
    print_table(
        "Masters",
        ["name", "address", "version", "leads", "asked"],
        [
            [
                one["name"],
                one["url"] or "-",
                one["version"],
                *("yes" if one[what] else "" for what in ("leader", "here")),
            ]
            for one in found["masters"]
        ],
        empty="No masters.",
    )
