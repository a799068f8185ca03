"""What is learned of the speed of each model on each node: pure; figures come in, predictions go out.

Times per token are averaged, not tokens per second: what is predicted is a time, and a mean of times is
right for it. Before anything is known, a model's size on disk says what to expect; what a node's other models
showed scales that guess. The first sample replaces the guess, later ones move it by a part, cut off at a
factor of `_CLIP`: one odd call does not upset it, and a node that slows down is known after two or three.
A slowed node gets few calls, so that nobody would learn that it is quick again: what it is slower than usual
is forgiven by half every `_HALF_S` without a call, until a call there shows how it is; each one that shows it
slow still doubles that time.

Sharing: with `k` calls on an engine each takes `1 + sharing * (k - 1)` times as long as alone; 0 is an engine
with room for all, 1 is one that just divides its speed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

Quantity = Literal["load", "prompt", "generate", "sharing"]
EngineKey = tuple[str, str]
"""Node, engine."""

TYPICAL_SIZE = 2_000_000_000  # bytes, where a node does not tell
_BYTES_PER_SECOND_READ = 20e9  # of memory while generating: each token reads the model once
_BYTES_PER_SECOND_LOADED = 500e6
_LEAST_LOAD_S = 0.5
_PROMPT_SPEEDUP = 8.0  # prompt tokens are read in batches
_CLIP = 4.0
_NEWEST = 0.35  # least part of the newest sample in an estimate
_UNKNOWN_SHARING = 0.3
_MEASURED = 3  # samples before the sharing of an engine counts as measured
_LEAST_TOKENS = 4
_SLOWED = 1.3  # times the usual
_UP, _UP_AFTER = 0.01, 5  # part of a slower sample in what is usual, after so many samples
_HALF_S, _LONGEST_HALF_S = 300.0, 3600.0
_FORGIVEN_EVERY_S = 30.0  # how often it is worked out
_LEAST_PROMPT_TOKENS = 16


@dataclass(slots=True)
class Estimate:
    """`value` in seconds (load), seconds per token (prompt, generate) or as a part (sharing).

    `usual` follows quicker calls at once and slower ones over hundreds; 0 before the first.
    """

    value: float
    samples: int = 0
    usual: float = 0.0

    def learn(self, sample: float) -> None:
        if self.samples == 0:
            self.value = self.usual = sample
        else:
            self.usual = self.usual or self.value
            cut = min(max(sample, self.value / _CLIP), self.value * _CLIP) if self.value > 0 else sample
            self.value += max(_NEWEST, 1 / (self.samples + 1)) * (cut - self.value)
            newest = _NEWEST if cut < self.usual else _UP if self.samples > _UP_AFTER else 0.2
            self.usual += newest * (cut - self.usual)
        self.samples = min(self.samples + 1, 1_000_000)

    @property
    def is_slowed(self) -> bool:
        return self.value > _SLOWED * self.usual > 0

    def forgive(self, halves: float) -> None:
        self.value = self.usual + (self.value - self.usual) * 0.5**halves


@dataclass(slots=True)
class _Slowed:
    """An estimate that is slower than usual: since when nobody saw it, and how soon half is forgiven."""

    since: float
    half_s: float = _HALF_S
    forgiven: bool = False

    def seen_slow(self, now: float) -> None:
        if self.forgiven:
            self.half_s = min(2 * self.half_s, _LONGEST_HALF_S)
        self.since, self.forgiven = now, False


@dataclass(frozen=True, slots=True)
class Sample:
    """What one finished call showed. Seconds; `concurrency` is the mean number of calls on the engine, `None`
    where it is not known because the call waited inside it: then only its load counts.
    """

    prompt_tokens: int
    completion_tokens: int
    load_s: float
    prompt_s: float
    generate_s: float
    cached: bool = False
    concurrency: float | None = 1.0


@dataclass(frozen=True, slots=True)
class Speed:
    """A prediction for one model on one node, alone on its engine."""

    load_s: float
    prompt_s_per_token: float
    generate_s_per_token: float


@dataclass(frozen=True, slots=True)
class Learned:
    """One row that is kept. `model` is empty for what belongs to the engine as a whole."""

    node: str
    engine: str
    model: str
    quantity: Quantity
    value: float
    samples: int
    usual: float = 0.0


@dataclass(slots=True)
class _Scale:
    """How a node's times compare with what the sizes of its models promise."""

    load: Estimate = field(default_factory=lambda: Estimate(1.0))
    prompt: Estimate = field(default_factory=lambda: Estimate(1.0))
    generate: Estimate = field(default_factory=lambda: Estimate(1.0))


class Speeds:
    """All that is learned. One task owns it."""

    def __init__(self) -> None:
        self._models: dict[tuple[str, str, str, Quantity], Estimate] = {}
        self._solo: dict[tuple[str, str, str], int] = {}
        self._sharing: dict[EngineKey, Estimate] = {}
        self._scales: dict[EngineKey, _Scale] = {}
        self._changed: set[tuple[str, str, str, Quantity]] = set()
        self._slowed: dict[EngineKey, dict[tuple[str, str, str, Quantity], _Slowed]] = {}
        self._unscaled: set[EngineKey] = set()  # restored, and the sizes of its models not known yet
        self.versions: dict[EngineKey, int] = {}  # rises with what is learned of an engine

    def of(self, node: str, engine: str, model: str, size: int) -> Speed:
        """What to expect of a model of `size` bytes."""
        guess = prior(size)
        scale = self._scales.get((node, engine))
        if scale is not None:
            guess = Speed(
                guess.load_s * scale.load.value,
                guess.prompt_s_per_token * scale.prompt.value,
                guess.generate_s_per_token * scale.generate.value,
            )
        get = self._models.get
        load = get((node, engine, model, "load"))
        prompt = get((node, engine, model, "prompt"))
        generate = get((node, engine, model, "generate"))
        return Speed(
            guess.load_s if load is None else load.value,
            guess.prompt_s_per_token if prompt is None else prompt.value,
            guess.generate_s_per_token if generate is None else generate.value,
        )

    def sharing(self, node: str, engine: str) -> float:
        """How much each further call slows the others down; a guess until it is measured."""
        found = self._sharing.get((node, engine))
        return _UNKNOWN_SHARING if found is None else found.value

    def measured_sharing(self, node: str, engine: str) -> float | None:
        """The same, `None` until enough calls have shown it."""
        found = self._sharing.get((node, engine))
        return None if found is None or found.samples < _MEASURED else found.value

    def learn(self, node: str, engine: str, model: str, size: int, sample: Sample, now: float = 0.0) -> None:
        """Take one finished call in."""
        self.versions[node, engine] = self.versions.get((node, engine), 0) + 1
        guess, scale = prior(size), self._scales.setdefault((node, engine), _Scale())
        if sample.load_s > 0.05:
            self._learn((node, engine, model, "load"), sample.load_s, now)
            scale.load.learn(sample.load_s / guess.load_s)
        if sample.concurrency is None:
            return
        others = max(sample.concurrency - 1.0, 0.0)
        if sample.prompt_tokens >= _LEAST_PROMPT_TOKENS and sample.prompt_s > 0 and not sample.cached:
            shared = 1.0 + self.sharing(node, engine) * others
            alone = sample.prompt_s / sample.prompt_tokens / shared
            self._learn((node, engine, model, "prompt"), alone, now)
            scale.prompt.learn(alone / guess.prompt_s_per_token)
        if sample.completion_tokens >= _LEAST_TOKENS and sample.generate_s > 0:
            seen = sample.generate_s / sample.completion_tokens
            self._learn_sharing(node, engine, model, seen, others)
            alone = seen / (1.0 + self.sharing(node, engine) * others)
            self._learn((node, engine, model, "generate"), alone, now)
            scale.generate.learn(alone / guess.generate_s_per_token)

    def forget_sharing(self, node: str, engine: str) -> None:
        """The calls that were taken to run beside each other had been waiting for each other."""
        if (node, engine) in self._sharing:
            self._sharing[node, engine] = Estimate(_UNKNOWN_SHARING)
            self._changed.add((node, engine, "", "sharing"))
            self.versions[node, engine] = self.versions.get((node, engine), 0) + 1

    def _learn_sharing(self, node: str, engine: str, model: str, seen: float, others: float) -> None:
        """Only against calls that ran alone: two unknowns cannot be told apart in one figure."""
        key = (node, engine, model)
        if others < 0.2:
            self._solo[key] = self._solo.get(key, 0) + 1
            return
        alone = self._models.get((*key, "generate"))
        if others < 0.5 or alone is None or not self._solo.get(key):
            return
        sample = min(max((seen / alone.value - 1.0) / others, 0.0), 1.0)
        found = self._sharing.setdefault((node, engine), Estimate(sample))
        if found.samples == 0:
            found.value = sample
        else:
            found.value += _NEWEST * (sample - found.value)
        found.samples += 1
        self._changed.add((node, engine, "", "sharing"))

    def _learn(self, key: tuple[str, str, str, Quantity], sample: float, now: float) -> None:
        estimate = self._models.setdefault(key, Estimate(sample))
        estimate.learn(sample)
        self._changed.add(key)
        slowed = self._slowed.setdefault((key[0], key[1]), {})
        if estimate.is_slowed:
            slowed.setdefault(key, _Slowed(now)).seen_slow(now)
        else:
            slowed.pop(key, None)

    def forgive(self, node: str, engine: str, now: float) -> None:
        """Time has passed: what an engine is slower than usual counts less, so that it is tried again."""
        slowed = self._slowed.get((node, engine))
        if not slowed:
            return
        for key, one in slowed.items():
            one.since = min(one.since, now)  # a restored one counts from now
            if now - one.since >= _FORGIVEN_EVERY_S:
                self._models[key].forgive((now - one.since) / one.half_s)
                one.since, one.forgiven = now, True
                self._changed.add(key)
                self.versions[node, engine] = self.versions.get((node, engine), 0) + 1

    # -- keeping --------------------------------------------------------------------------------------------

    def restore(self, rows: Iterable[Learned]) -> None:
        """Go on from what was kept."""
        for row in rows:
            estimate = Estimate(row.value, row.samples, row.usual)
            engine = (row.node, row.engine)
            if row.quantity == "sharing":
                self._sharing[engine] = estimate
                continue
            key = (*engine, row.model, row.quantity)
            self._models[key] = estimate
            self._unscaled.add(engine)
            if estimate.is_slowed:
                self._slowed.setdefault(engine, {})[key] = _Slowed(float("inf"))
        for node, name, model, quantity in self._models:
            # Where sharing is known, what is kept is a time alone.
            if quantity == "generate" and (node, name) in self._sharing:
                self._solo[node, name, model] = 1

    def know_sizes(self, node: str, engine: str, sizes: Mapping[str, int]) -> None:
        """What was restored scales the guesses for other models, once the sizes of its models are known."""
        if not sizes or (node, engine) not in self._unscaled:
            return
        self._unscaled.discard((node, engine))
        scale = self._scales.setdefault((node, engine), _Scale())
        for model, size in sizes.items():
            guess = prior(size)
            promises: tuple[tuple[Quantity, float, Estimate], ...] = (
                ("load", guess.load_s, scale.load),
                ("prompt", guess.prompt_s_per_token, scale.prompt),
                ("generate", guess.generate_s_per_token, scale.generate),
            )
            for quantity, promised, learned in promises:
                found = self._models.get((node, engine, model, quantity))
                if found is not None:
                    learned.learn(found.value / promised)
        self.versions[node, engine] = self.versions.get((node, engine), 0) + 1

    def changed(self) -> list[Learned]:
        """What was learned since this was asked last."""
        rows: list[Learned] = []
        for key in sorted(self._changed):
            node, engine, _, quantity = key
            found = self._sharing.get((node, engine)) if quantity == "sharing" else self._models.get(key)
            if found is not None:
                rows.append(Learned(*key, found.value, found.samples, found.usual))
        self._changed.clear()
        return rows

    def unkept(self, rows: Iterable[Learned]) -> None:
        """These could not be written: they are due again."""
        self._changed.update((row.node, row.engine, row.model, row.quantity) for row in rows)


def prior(size: int) -> Speed:
    """What a model's bytes promise on an ordinary PC."""
    size = size if size > 0 else TYPICAL_SIZE
    generate = size / _BYTES_PER_SECOND_READ
    return Speed(_LEAST_LOAD_S + size / _BYTES_PER_SECOND_LOADED, generate / _PROMPT_SPEEDUP, generate)
