"""`council archive …` against a real master."""

from __future__ import annotations

import asyncio
import json
import zipfile
from pathlib import Path

import pytest

from tests.service.cli.command import Council, Outcome
from tests.service.master.rig import Rig

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def council(cluster: Rig, home: Path, *words: str, stdin: str = "") -> Outcome:
    """One command on a PC of its own, which knows the master's address alone."""
    command = Council(home)
    return await asyncio.to_thread(
        lambda: command.run("archive", *words, stdin=stdin, COUNCIL_URL=cluster.master.url)
    )


async def test_conversations_are_added_listed_shown_exported_and_deleted(
    cluster: Rig, tmp_path: Path
) -> None:
    talk = [
        {"role": "user", "content": "Где мой синий зонт?"},
        {"role": "assistant", "content": "Лежит в прихожей."},
    ]
    added = await council(cluster, tmp_path, "add", "--file", "-", "--json", stdin=json.dumps(talk))
    archive_id = json.loads(added.out)["archive_id"]
    table = await council(cluster, tmp_path, "search", "СИНИЙ", "зонт")
    assert (table.code, table.err) == (0, "")
    assert archive_id in table.out
    assert "Где мой синий зонт?" in table.out
    listed = json.loads((await council(cluster, tmp_path, "list", "--q", "прихожей", "--json")).out)
    assert [one["id"] for one in listed["archives"]] == [archive_id]
    shown = await council(cluster, tmp_path, "show", archive_id, "--messages")
    assert "Лежит в прихожей." in shown.out
    assert (await council(cluster, tmp_path, "retry")).code == 2
    pending = await council(cluster, tmp_path, "retry", archive_id)
    assert (pending.code, "is queued already" in pending.err) == (1, True)
    assert "0 archives queued" in (await council(cluster, tmp_path, "retry", "--failed", "--practice")).err
    copy = tmp_path / "copy.json"
    assert (
        await council(cluster, tmp_path, "export", archive_id, "--format", "json", "-o", str(copy))
    ).code == 0
    assert (await council(cluster, tmp_path, "delete", archive_id)).code == 2
    assert (await council(cluster, tmp_path, "delete", archive_id, "--yes")).out == f"deleted {archive_id}\n"
    gone = await council(cluster, tmp_path, "show", archive_id)
    assert (gone.code, gone.out) == (1, "")
    assert gone.err.startswith("error: there is no archive")
    back = await council(cluster, tmp_path, "import", str(copy))
    assert f"{copy}: 1 imported, 0 known already, 0 skipped" in back.out
    figures = json.loads((await council(cluster, tmp_path, "stats", "--json")).out)
    assert figures["total"] >= 1


async def test_the_zip_of_an_export_is_imported_as_it_is(cluster: Rig, tmp_path: Path) -> None:
    mapping = {
        "r": {"id": "r", "parent": None, "message": None},
        "q": {
            "id": "q",
            "parent": "r",
            "message": {
                "author": {"role": "user"},
                "content": {"content_type": "text", "parts": ["Zipped?"]},
            },
        },
    }
    with zipfile.ZipFile(tmp_path / "export.zip", "w", zipfile.ZIP_DEFLATED) as export:
        export.writestr("user.json", "{}")
        export.writestr("conversations.json", json.dumps([{"mapping": mapping, "current_node": "q"}, {}]))
    tried = await council(cluster, tmp_path, "import", "export.zip", "--dry-run")
    assert "1 would be imported" in tried.out
    done = await council(cluster, tmp_path, "import", "export.zip", "--json")
    (report,) = json.loads(done.out)["files"]
    assert (report["formats"], report["imported"], report["skipped"]) == ({"chatgpt": 1}, 1, 1)


async def test_what_holds_no_conversation_is_told(cluster: Rig, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"a": 1}')
    nothing = await council(cluster, tmp_path, "import", "x.json")
    assert nothing.code == 1
    assert "no conversation was found" in nothing.err
    assert (await council(cluster, tmp_path, "import", "missing.json")).code == 1
    assert (await council(cluster, tmp_path, "add", "--file", "x.json")).code == 2
    assert (await council(cluster, tmp_path, "add", "--session", "1", "--conversation", "2")).code == 2
