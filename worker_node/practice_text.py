"""What the practice models say: short texts with choices in them, compiled to a walk over phrases.

A practice model knows nothing. Its text only has to be readable, to look like an answer (paragraphs, a
list), to differ from one model to the next, and to end by itself at every temperature. So a text is written
here as sentences with choices, and compiled to a graph in which every phrase stands exactly once: what
comes next depends on the last phrase only, which is all a closed-form bigram model can hold, and as no
phrase leads back, every walk ends.

The notation: `(slowly|with care)` is a choice; a leading `?` marks a sentence that may be left out; a
leading `-` starts a list item, a leading `¶` a paragraph.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

PRACTICE_TAG = "lan-council-practice"  # in every file: how it is known again
_PIECE = re.compile(r"\([^)]*\)[^\s(]*|[^\s(]+")
_LEFT_OUT = 0.3  # how often a sentence marked `?` is left out


@dataclass(frozen=True, slots=True)
class Temperament:
    """One practice model: its name, its texts, and how it scores (weights of the scores 1 to 10)."""

    name: str
    answer: Sequence[str]
    critique: Sequence[str]
    score_weights: Sequence[int]


@dataclass(slots=True)
class Walk:
    """Phrases and the probabilities between them. `START` leads into the text; `END` closes it."""

    edges: dict[str, dict[str, float]] = field(default_factory=dict)

    START = "<start>"
    END = "<end>"

    def add(self, source: str, target: str, weight: float) -> None:
        targets = self.edges.setdefault(source, {})
        targets[target] = targets.get(target, 0.0) + weight

    @property
    def phrases(self) -> list[str]:
        return [phrase for phrase in self.edges if phrase != self.START]


# The open ends of a walk: (last phrase, words that wait to be glued to the next one) -> probability left.
_Ends = dict[tuple[str, str], float]


def compile_text(sentences: Sequence[str], taken: set[str]) -> Walk:
    """Turn sentences into a walk whose phrases are all new to `taken` (which grows by them).

    A word that already stands somewhere is glued to the next one ("the" becomes "the question"), so that
    no phrase is ambiguous. Raises `ValueError` for a text whose very end is not a new phrase.
    """
    walk = Walk()
    ends: _Ends = {(Walk.START, ""): 1.0}
    for number, sentence in enumerate(sentences):
        body = sentence.removeprefix("?")
        left_out = _LEFT_OUT if body != sentence else 0.0
        skipped = {end: share * left_out for end, share in ends.items() if left_out}
        entered = {end: share * (1.0 - left_out) for end, share in ends.items()}
        ends = _add_sentence(walk, body, entered, taken, lead=" " if number else "")
        _join(ends, skipped)
    for (phrase, waiting), share in ends.items():
        if waiting:
            raise ValueError(f"the text ends with {waiting!r}, which stands elsewhere too")
        walk.add(phrase, Walk.END, share)
    return walk


def _add_sentence(walk: Walk, body: str, ends: _Ends, taken: set[str], *, lead: str) -> _Ends:
    for mark, replaced in (("-", "\n- "), ("¶", "\n\n")):
        if body.startswith(mark):
            lead, body = replaced, body.removeprefix(mark)
    for piece in _PIECE.findall(body):
        choices, tail = _choices(piece)
        after: _Ends = {}
        for number, choice in enumerate(choices):
            # Uneven weights, so that the likeliest path at temperature 0 is not a tie.
            share = (len(choices) + 1 - number) / sum(range(2, len(choices) + 2))
            branch = {end: left * share for end, left in ends.items()}
            for offset, word in enumerate((choice + tail).split()):
                branch = _add_word(walk, word, branch, taken, lead if offset == 0 else " ")
            _join(after, branch)
        ends, lead = after, " "
    return ends


def _add_word(walk: Walk, word: str, ends: _Ends, taken: set[str], lead: str) -> _Ends:
    after: _Ends = {}
    new: set[str] = set()
    for (source, waiting), share in ends.items():
        phrase = waiting + lead + word
        if phrase in taken:
            _join(after, {(source, phrase): share})
        else:
            new.add(phrase)
            walk.add(source, phrase, share)
            after[phrase, ""] = 1.0
    taken |= new
    return after


def _join(ends: _Ends, more: _Ends) -> None:
    for end, share in more.items():
        ends[end] = ends.get(end, 0.0) + share


def _choices(piece: str) -> tuple[list[str], str]:
    if not piece.startswith("("):
        return [piece], ""
    inner, tail = piece[1:].split(")", 1)
    return inner.split("|"), tail


OWL = Temperament(
    name="practice-owl",
    answer=[
        "Let us (think|reason) about this (slowly|with patience), one step (at a time|after another).",
        "(A careful reader|An old owl) would first ask what is (really meant|being asked here), "
        "and only then (begin to answer|look for words).",
        "?There are (several|at least two) ways to (read|understand) such a question, and each (has merit|"
        "deserves a moment).",
        "¶**What seems likely.** The (evidence|material) at hand is (thin|modest), yet it "
        "(points|leans) in one direction (more than in another|rather clearly).",
        "?Where (facts|figures) are missing, an honest (guess|estimate) is better when it (says so|"
        "names its limits).",
        "One (night|evening) of quiet (study|work) often settles what (ten|twenty) loud (hours|debates) "
        "could not.",
        "¶**What speaks against it.** (Habit|Haste) is a poor (guide|teacher), because it (hides|"
        "covers) the (exception|odd case) that matters most.",
        "?So I would (test|weigh) the (opposite|contrary) claim with (equal|the same) care before (trusting|"
        "keeping) my own.",
        "¶**In the end,** (balance|calm) wins: (hold|keep) the (simple|plain) explanation, (stay|"
        "remain) ready to (drop|revise) it, and (write|note) down why.",
        "?(Bear in mind|Remember): this bird is only (practising|rehearsing).",
    ],
    critique=[
        "The (argument|reasoning) is (sound|orderly) but (moves|walks) past (some|every) important doubt.",
        "?It (would|could) gain from a (concrete|worked) example near (the end|its close).",
        "?Still, its (tone|structure) remains (measured|even) throughout.",
    ],
    score_weights=[1, 1, 2, 3, 5, 8, 9, 8, 5, 2],
)

FOX = Temperament(
    name="practice-fox",
    answer=[
        "Short (version|answer): it (depends|varies), but there is a (clever|quick) way (through|around it).",
        "(Here are|These are) the (tricks|moves) I (like|would try):",
        "-**Start small.** (Pick|Choose) the (cheapest|smallest) test that could (fail|prove you wrong), and "
        "(run|do) that first.",
        "-**Look sideways.** (Somebody|A neighbour) has (solved|met) a similar (puzzle|problem); (borrow|"
        "copy) the idea, not its (details|costume).",
        "-**Keep an exit.** Every (plan|scheme) needs (a way out|a back door) before (dusk|Friday).",
        "?-**Count twice.** (Numbers|Totals) that (flatter|please) us deserve (suspicion|another look).",
        "¶(Why|How come)? Because (speed|surprise) without (direction|aim) is just (noise|circling).",
        "?A fox who (thinks|pauses) for a (minute|moment) eats (better|sooner) than one who (barks|digs) all "
        "(day|night).",
        "¶So: (act|go), (watch|listen), (adjust|turn). That (usually|mostly) works, and when it does not, "
        "you (learn|know) something by (noon|sunset).",
    ],
    critique=[
        "(Bold|Lively) opening, yet (half|much) of the claim is (left|simply) unproven.",
        "?A (sharper|tighter) ending would (help|convince) more.",
        "?I (missed|wanted) one (number|source) to (check|chase).",
    ],
    score_weights=[2, 3, 4, 5, 5, 5, 5, 4, 3, 2],
)

BEE = Temperament(
    name="practice-bee",
    answer=[
        "(Happy to help|Gladly)! (Work|A good job) begins with what is (near|known), so (gather|collect) "
        "that (today|right away).",
        "?(Then|Next) (share|divide) the (load|task): many (small|light) trips (beat|replace) one heavy "
        "(flight|journey).",
        "¶Three (things|habits) keep a hive (humming|warm):",
        "-(clear|short) messages, (said|sent) once;",
        "-(steady|regular) pauses, so that nobody (tires|stumbles);",
        "-a (shared|common) store for (winter|later).",
        "¶If (rain|trouble) comes, (wait|rest) a little, (count|check) the (cells|jars) and (start|try) "
        "again.",
        "?(Enough|All) for now; back to the (flowers|meadow)!",
    ],
    critique=[
        "(Useful|Helpful) and (friendly|tidy), with (few|hardly any) wasted words.",
        "?One (more|further) step for (beginners|newcomers) would (complete|round) it off.",
    ],
    score_weights=[1, 1, 1, 2, 4, 6, 8, 8, 6, 4],
)

TEMPERAMENTS = (OWL, FOX, BEE)
