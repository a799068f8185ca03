"""`council ask` as a process of its own against a scripted master on a real socket."""

from __future__ import annotations

import json
import re
import signal
import socket
import sys
from pathlib import Path

import pytest

from tests.service.cli.command import Council
from tests.service.cli.fake_council import ANSWER, Script
from tests.service.cli.fake_master import KEY, FakeMaster, serving

QUESTION = "Why is the sky blue?"
needs_signals = pytest.mark.skipif(
    sys.platform == "win32", reason="SIGINT cannot be sent to one process there"
)


def asked(master: FakeMaster) -> dict[str, object]:
    (session,) = master.sessions.values()
    return session.body


def test_a_pipe_gets_stages_texts_tables_and_no_control_codes(council: Council, master: FakeMaster) -> None:
    ended = council.run("ask", QUESTION, "--url", master.url)
    assert ended.code == 0, ended.err
    for part in ("Stage 1 of 3", "Stage 2 of 3", "Stage 3 of 3", "Ranking", "Ballots", "Tokens and latency"):
        assert part in ended.out
    assert "agent_2 | Second line of agent_2." in ended.out
    assert ended.out.count("Rayleigh scattering") == 1
    assert "Result: full" in ended.out
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", ended.out)


def test_json_is_only_the_ended_session(council: Council, master: FakeMaster) -> None:
    ended = council.run("ask", QUESTION, "--json", COUNCIL_URL=master.url)
    assert ended.code == 0
    session = json.loads(ended.out)
    assert session["state"] == "completed"
    assert session["synthesis"]["text"] == ANSWER
    assert ended.err == ""


def test_the_options_reach_the_master(council: Council, master: FakeMaster) -> None:
    ended = council.run(
        *("ask", QUESTION, "--url", master.url, "--json", "--agents", "a,b", "--agent", "c=sceptic"),
        *("--persona", "optimist", "--chairman", "d", "--conversation", "42", "--quorum", "2"),
        *("--option", "temperature=0.7", "--option", "stop=END"),
    )
    assert ended.code == 0
    assert asked(master) == {
        "question": QUESTION,
        "selected_agents": [{"model": "a", "persona": "optimist"}, "b", {"model": "c", "persona": "sceptic"}],
        "chairman": "d",
        "conversation_id": "42",
        "quorum": 2,
        "options": {"temperature": 0.7, "stop": "END"},
    }


@pytest.mark.parametrize("arguments", [["ask"], ["ask", "-"]])
def test_the_question_comes_from_a_pipe(council: Council, master: FakeMaster, arguments: list[str]) -> None:
    assert council.run(*arguments, "--json", "--url", master.url, stdin=f"{QUESTION}\n").code == 0
    assert asked(master)["question"] == QUESTION


def test_the_question_comes_from_a_file(council: Council, master: FakeMaster, tmp_path: Path) -> None:
    (tmp_path / "question.txt").write_text("Warum ist der Himmel blau? 蓝", encoding="utf-8")
    ended = council.run("ask", "--file", "question.txt", "--json", "--url", master.url)
    assert ended.code == 0
    assert asked(master)["question"] == "Warum ist der Himmel blau? 蓝"
    assert "蓝" in ended.out


@pytest.mark.parametrize(
    ("arguments", "stdin", "told"),
    [
        (["ask", ""], "", "is empty"),
        (["ask"], " \n", "is empty"),
        (["ask"], b"\xff\xfe\x00", "not UTF-8"),
        (["ask", "--file", "nowhere.txt"], "", "cannot read nowhere.txt"),
        (["ask", "q", "--option", "temperature"], "", "NAME=VALUE"),
        (["ask", "q", "--agents", "a,,b"], "", "empty name"),
        (["ask", "q", "--persona", "sceptic"], "", "1 personas for 0 seats"),
        (["ask", "q", "--quorum", "0"], "", "--quorum"),
        (["ask", "q", "--no-such-flag"], "", "no-such-flag"),
    ],
)
def test_a_wrong_command_line_is_exit_2_and_asks_nobody(
    council: Council, master: FakeMaster, arguments: list[str], stdin: str | bytes, told: str
) -> None:
    ended = council.run(*arguments, "--url", master.url, stdin=stdin)
    assert ended.code == 2
    assert told in ended.err
    assert not master.sessions


def test_what_the_master_refuses_is_one_line_and_a_hint(council: Council, master: FakeMaster) -> None:
    master.refusal = (409, {"code": "model_unavailable", "detail": "no node has nonesuch"})
    ended = council.run("ask", QUESTION, "--agent", "nonesuch", "--url", master.url)
    assert ended.code == 1
    assert ended.err.splitlines()[0] == "error: no node has nonesuch"
    assert "council models list" in ended.err
    assert "Traceback" not in ended.err


def test_what_the_master_finds_invalid_is_a_usage_error(council: Council, master: FakeMaster) -> None:
    master.refusal = (413, {"code": "payload_too_large", "detail": "the question is longer than 64 KiB"})
    assert council.run("ask", "x" * 100_000, "--url", master.url).code == 2


def test_an_address_without_a_master_says_what_to_type(council: Council) -> None:
    ended = council.run("ask", QUESTION, "--url", "http://127.0.0.1:9")
    assert ended.code == 1
    assert "no master answers at http://127.0.0.1:9" in ended.err
    assert "council up" in ended.err


def test_a_worker_is_told_apart_from_a_master(council: Council) -> None:
    with serving(FakeMaster(role="worker")) as worker:
        ended = council.run("ask", QUESTION, "--url", worker.url)
    assert ended.code == 1
    assert "worker node" in ended.err


def test_the_key_is_sent_and_its_absence_explained(council: Council) -> None:
    with serving(FakeMaster(key=KEY)) as master:
        without = council.run("ask", QUESTION, "--url", master.url)
        assert without.code == 1
        assert "COUNCIL_KEY" in without.err
        assert council.run("ask", QUESTION, "--json", "--url", master.url, COUNCIL_KEY=KEY).code == 0


def test_a_socket_cut_fifty_times_shows_every_event_once(council: Council, master: FakeMaster) -> None:
    lines = [f"line {number}" for number in range(60)]
    master.script = Script(opinion="\n".join(lines), drop_at=set(range(3, 153, 3)))
    ended = council.run("ask", QUESTION, "--url", master.url)
    assert ended.code == 0, ended.err
    assert master.connects == 51
    for agent in ("agent_1", "agent_2", "agent_3"):
        printed = re.findall(rf"{agent} \| (line \d+)", ended.out)
        assert printed == lines
    assert "Result: full" in ended.out


def test_a_snapshot_continues_what_was_printed(council: Council, master: FakeMaster) -> None:
    master.script = Script(drop_at={8}, snapshot_on_reconnect=True)
    ended = council.run("ask", QUESTION, "--url", master.url)
    assert ended.code == 0, ended.err
    assert ended.out.count("agent_1 | First line of agent_1.") == 1
    assert ended.out.count("agent_3 | Second line of agent_3.") == 1
    assert ended.out.count("Rayleigh scattering") == 1


def test_a_lost_connection_is_told_once_and_so_is_its_return(council: Council) -> None:
    with serving(FakeMaster()) as master:
        master.script = Script(drop_at={4}, cut_reconnects=3, pause_s=0.2)
        ended = council.run("ask", QUESTION, "--url", master.url)
    assert ended.code == 0, ended.err
    assert ended.err.count("connection lost") == 1
    assert ended.err.count("connected again") == 1


def test_an_event_that_stays_missing_does_not_hang_the_command(council: Council, master: FakeMaster) -> None:
    master.script = Script(leave_out={7})
    assert council.run("ask", QUESTION, "--url", master.url).code == 0


def test_a_call_that_begins_anew_is_said(council: Council, master: FakeMaster) -> None:
    master.script = Script(restart=True)
    ended = council.run("ask", QUESTION, "--url", master.url)
    assert "agent_1: began anew" in ended.out
    assert ended.out.count("agent_1 | First line of agent_1.") == 1


def test_a_failed_session_is_exit_1(council: Council, master: FakeMaster) -> None:
    master.script = Script(fail={"code": "quorum_not_met", "detail": "2 of 3 agents were needed"})
    ended = council.run("ask", QUESTION, "--url", master.url)
    assert ended.code == 1
    assert "2 of 3 agents were needed" in ended.out


def test_strict_tells_a_degraded_result_by_exit_3(council: Council, master: FakeMaster) -> None:
    master.script = Script(result="degraded", missing=["agent_3"])
    strict = council.run("ask", QUESTION, "--strict", "--url", master.url)
    assert strict.code == 3
    assert "degraded. Missing: agent_3" in strict.out
    master.script = Script(result="degraded", missing=["agent_3"])
    assert council.run("ask", QUESTION, "--json", "--url", master.url).code == 0


def test_practice_models_and_warnings_are_said(council: Council, master: FakeMaster) -> None:
    master.script = Script(practice=True, warnings=["pc2 was lost"])
    ended = council.run("ask", QUESTION, "--url", master.url)
    assert "Practice models" in ended.out
    assert "pc2 was lost" in ended.out


def test_a_hostile_answer_cannot_reach_the_terminal(council: Council, master: FakeMaster) -> None:
    master.script = Script(answer="\x1b[2J\x1b]0;owned\x07[red]plain[/red] \u202ereversed")
    ended = council.run("ask", QUESTION, "--url", master.url)
    assert "\x1b" not in ended.out
    assert "\u202e" not in ended.out
    assert "[red]plain[/red]" in ended.out


def test_the_time_limit_cancels_and_is_exit_1(council: Council, master: FakeMaster) -> None:
    master.script = Script(hold_before="review")
    # Long enough to open the session on a busy machine.
    ended = council.run("ask", QUESTION, "--timeout", "5", "--url", master.url)
    assert ended.code == 1
    assert "no answer within 5 s: cancelling the session" in ended.err
    assert master.cancels == 1


def test_the_time_limit_is_told_also_where_no_session_was_opened_yet(council: Council) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        ended = council.run("ask", QUESTION, "--timeout", "0.5", "--url", url)
    assert (ended.code, ended.out) == (1, "")
    assert ended.err == "no answer within 0.5 s: no session had been opened yet\n"


@needs_signals
@pytest.mark.parametrize("stage", ["opinions", "review", "synthesis"])
def test_ctrl_c_cancels_the_session_and_is_exit_130(council: Council, master: FakeMaster, stage: str) -> None:
    master.script = Script(hold_before=stage)
    with council.start("ask", QUESTION, "--url", master.url) as process:
        assert master.started.wait(20)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert master.cancels == 1
    assert b"cancelling the session" in err
    assert b"cancelled" in out
    assert b"Traceback" not in err


@needs_signals
def test_a_second_ctrl_c_quits_at_once(council: Council, master: FakeMaster) -> None:
    master.script = Script(hold_before="review", ignore_cancel=True)
    with council.start("ask", QUESTION, "--url", master.url) as process:
        assert master.started.wait(20)
        assert process.stderr is not None
        process.send_signal(signal.SIGINT)
        assert b"cancelling" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(5) == 130
    assert master.cancels <= 1
