"""The ballot of a reviewer: its schema, and reading it without ever guessing.

The model writes label, reasoning, score, in that order: the critique comes before the figure that it
explains. What is stored is the ballot of the API: agent id, score, reasoning.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

MIN_SCORE, MAX_SCORE = 1, 10
MAX_REASONING = 400  # characters of one critique
MIN_REASONING = 40
_ENTRY_OVERHEAD = 80  # tokens of keys, punctuation, label, score and the white space a grammar allows
_BALLOT_OVERHEAD = 40
_ENTRY_KEYS = ("label", "reasoning", "score")


@dataclass(frozen=True, slots=True)
class Vote:
    label: str
    reasoning: str
    score: int


@dataclass(frozen=True, slots=True)
class Ballot:
    """One vote for each label, in the order of the labels asked for."""

    votes: tuple[Vote, ...]


@dataclass(frozen=True, slots=True)
class BallotProblem:
    """Why a text is no ballot, in words that a model can act on."""

    detail: str


@dataclass(frozen=True, slots=True)
class Ranked:
    """One vote of a stored ballot."""

    agent_id: str
    score: int
    reasoning: str


@dataclass(frozen=True, slots=True)
class CastBallot:
    """What one reviewer decided: its votes, or an abstention with the reason.

    `inputs` are the (agent, run of the opinion) pairs it judged: a ballot on other opinions is stale.
    `failed` marks a reviewer whose call failed, against one whose ballots could not be read.
    """

    reviewer: str
    rankings: tuple[Ranked, ...]
    inputs: frozenset[tuple[str, int]]
    run: int
    reason: str | None = None
    failed: bool = False
    error: dict[str, Any] | None = None

    @property
    def abstained(self) -> bool:
        return self.reason is not None

    @classmethod
    def abstention(
        cls, reviewer: str, error: Mapping[str, Any], inputs: frozenset[tuple[str, int]], run: int
    ) -> CastBallot:
        failed = error.get("code") not in ("invalid_output", "empty_answer")
        reason = str(error.get("detail") or "no reason known")
        return cls(reviewer, (), inputs, run, reason, failed, dict(error))


def ballot_schema(labels: Sequence[str], max_reasoning: int = MAX_REASONING) -> dict[str, Any]:
    """A JSON schema in which everything is bounded: without bounds a grammar need not end in valid JSON."""
    return {
        "type": "object",
        "properties": {
            "rankings": {
                "type": "array",
                "minItems": len(labels),
                "maxItems": len(labels),
                "items": {
                    "type": "object",
                    "properties": {
                        "label": {"type": "string", "enum": list(labels)},
                        "reasoning": {"type": "string", "minLength": 1, "maxLength": max_reasoning},
                        "score": {"type": "integer", "minimum": MIN_SCORE, "maximum": MAX_SCORE},
                    },
                    "required": list(_ENTRY_KEYS),
                    "additionalProperties": False,
                },
            }
        },
        "required": ["rankings"],
        "additionalProperties": False,
    }


def worst_case_tokens(labels: int, max_reasoning: int, bytes_per_character: int = 1) -> int:
    """The most tokens that a ballot of that many labels can take: no vocabulary needs more than one a byte.

    A tenth is added for characters that JSON spells with two.
    """
    reasoning = -(-max_reasoning * bytes_per_character * 11 // 10)
    return _BALLOT_OVERHEAD + labels * (_ENTRY_OVERHEAD + reasoning)


class _Refused(ValueError):
    pass


def parse_ballot(text: str, labels: Sequence[str]) -> Ballot | BallotProblem:
    """Read a ballot: the whole text is one JSON object with every label exactly once, or it is a problem.

    Nothing is taken from prose, no string or fraction becomes a score, no vote is filled in.
    """
    try:
        content = json.loads(text, object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant)
        return Ballot(_votes(content, labels))
    except _Refused as refusal:
        return BallotProblem(str(refusal))
    except RecursionError:
        return BallotProblem("the JSON is nested too deeply")
    except ValueError as error:
        return BallotProblem(f"the reply is not one JSON object and nothing else ({error})")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise _Refused("an object has the same key twice")
    return content


def _refuse_constant(name: str) -> NoReturn:
    raise _Refused(f"{name} is not a JSON number")


def _votes(content: Any, labels: Sequence[str]) -> tuple[Vote, ...]:
    if not isinstance(content, dict) or set(content) != {"rankings"}:
        raise _Refused('the reply must be an object with the one key "rankings"')
    entries = content["rankings"]
    if not isinstance(entries, list):
        raise _Refused('"rankings" must be an array')
    votes: dict[str, Vote] = {}
    for entry in entries:
        vote = _vote(entry, labels)
        if vote.label in votes:
            raise _Refused(f"the label {vote.label} stands twice")
        votes[vote.label] = vote
    missing = [label for label in labels if label not in votes]
    if missing:
        raise _Refused(f"missing label{'s' if len(missing) > 1 else ''}: {', '.join(missing)}")
    return tuple(votes[label] for label in labels)


def _vote(entry: Any, labels: Sequence[str]) -> Vote:
    if not isinstance(entry, dict) or set(entry) != set(_ENTRY_KEYS):
        raise _Refused(f"every entry must have exactly the keys {', '.join(_ENTRY_KEYS)}")
    label, reasoning, score = (entry[key] for key in _ENTRY_KEYS)
    if not isinstance(label, str) or label not in labels:
        raise _Refused(f"{_shown(label)} is not one of the labels {', '.join(labels)}")
    if not isinstance(reasoning, str):
        raise _Refused(f"the reasoning for {label} must be text")
    if type(score) is not int or not MIN_SCORE <= score <= MAX_SCORE:
        raise _Refused(
            f"the score for {label} must be a whole number from {MIN_SCORE} to {MAX_SCORE}, "
            f"not {_shown(score)}"
        )
    return Vote(label, _storable(reasoning), score)


def _shown(value: Any) -> str:
    shown = json.dumps(_storable(value) if isinstance(value, str) else value, ensure_ascii=False)
    return shown if len(shown) <= 40 else shown[:39] + "…"


def _storable(text: str) -> str:
    """Without lone surrogates and NUL, which JSON can spell and no database takes."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\x00", "")
