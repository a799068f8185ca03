"""What a program says when it serves."""

from __future__ import annotations

import io
import json

from common.program import Ready

READY = Ready("https://127.0.0.1:8001", "pc2", 7)


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_person_is_told_in_words_and_a_program_in_json() -> None:
    person, program = _Terminal(), io.StringIO()
    READY.announce(person)
    READY.announce(program)
    assert person.getvalue() == "pc2 serves at https://127.0.0.1:8001 (Ctrl-C stops it)\n"
    assert json.loads(program.getvalue()) == {"url": READY.url, "name": "pc2", "pid": 7}
