"""The models that suit background work (B1): small enough to run beside the chat's. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BackgroundModel:
    """`size` is bytes on disk (4-bit); `ram` bytes in use with one slot of 8,192 tokens, roughly."""

    name: str
    size: int
    ram: int
    role: str
    suits: str


DEFAULT_BACKGROUND_MODEL = "llama3.2:3b"

BACKGROUND_MODELS: tuple[BackgroundModel, ...] = (
    BackgroundModel(
        "llama3.2:3b",
        2_000_000_000,
        3_300_000_000,
        "default",
        "extraction, summaries and contradictions; keeps to JSON; long documents",
    ),
    BackgroundModel(
        "phi3.5",
        2_200_000_000,
        5_700_000_000,
        "careful",
        "contradictions and dates, where reasoning counts; slowest, and most memory",
    ),
    BackgroundModel(
        "phi3",
        2_200_000_000,
        4_100_000_000,
        "careful",
        "phi-3-mini: as phi3.5, of an earlier year; documents up to 4,096 tokens",
    ),
    BackgroundModel(
        "gemma2:2b",
        1_600_000_000,
        2_700_000_000,
        "summaries",
        "summaries that read well; documents up to 8,192 tokens",
    ),
    BackgroundModel(
        "qwen2.5:1.5b",
        1_000_000_000,
        1_500_000_000,
        "light",
        "extraction in many languages on a small or busy PC; misses fine contradictions",
    ),
)
