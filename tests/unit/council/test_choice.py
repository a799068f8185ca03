"""Who sits in a council whose question names nobody."""

from __future__ import annotations

from master.council.choice import Candidate, choose_agents, choose_chairman

BEE = Candidate("practice-bee", 2_000_000, resident=True, practice=True)
OWL = Candidate("practice-owl", 2_000_000, resident=True, practice=True)
SMALL = Candidate("qwen2.5:0.5b", 350_000_000, resident=False)
LARGE = Candidate("llama3.2:1b", 1_300_000_000, resident=False)
EMBEDDER = Candidate("nomic-embed-text", 100_000_000, resident=True, can_generate=False)


def test_practice_models_sit_only_where_there_is_nothing_else() -> None:
    assert choose_agents([BEE, OWL], 3) == ["practice-bee", "practice-owl", "practice-bee"]
    assert choose_agents([BEE, OWL, LARGE, SMALL], 3) == ["qwen2.5:0.5b", "llama3.2:1b", "qwen2.5:0.5b"]


def test_a_loaded_model_is_taken_before_a_smaller_one_that_is_not() -> None:
    loaded = Candidate("gemma2:2b", 1_600_000_000, resident=True)
    assert choose_agents([SMALL, loaded], 2) == ["gemma2:2b", "qwen2.5:0.5b"]


def test_a_model_that_cannot_generate_has_no_seat_and_no_chair() -> None:
    assert choose_agents([EMBEDDER], 3) == []
    assert choose_chairman([EMBEDDER, SMALL], ["qwen2.5:0.5b"], "nomic-embed-text") == "qwen2.5:0.5b"


def test_the_chair_goes_to_the_setting_then_to_phi_then_to_the_largest_seat() -> None:
    phi = Candidate("phi3.5:latest", 2_200_000_000, resident=False)
    seats = ["qwen2.5:0.5b", "llama3.2:1b"]
    assert choose_chairman([SMALL, LARGE, phi], seats, "qwen2.5:0.5b") == "qwen2.5:0.5b"
    assert choose_chairman([SMALL, LARGE, phi], seats, None) == "phi3.5:latest"
    assert choose_chairman([SMALL, LARGE, BEE], seats, "not-there") == "llama3.2:1b"
