"""Text can be read in both themes: the pairs of colours that the page uses meet WCAG AA."""

import re

import pytest

import frontend

PAIRS = [
    (text, ground)
    for text in ("text", "text-soft", "text-faint", "accent")
    for ground in ("ground", "surface", "sunken", "raised")
] + [
    ("on-accent", "accent"),
    ("accent-strong", "accent-soft"),
    ("text", "accent-soft"),
    ("text-faint", "accent-soft"),
    ("text", "warn-soft"),
    ("warn", "warn-soft"),
    ("text-soft", "warn-soft"),
    ("text", "good-soft"),
    ("text", "bad-soft"),
    ("bad", "bad-soft"),
    ("bad", "surface"),
    ("surface", "bad"),
    ("code-keyword", "code-ground"),
    ("code-string", "code-ground"),
    ("code-number", "code-ground"),
    ("code-comment", "code-ground"),
    ("code-title", "code-ground"),
]


def _themes() -> dict[str, dict[str, str]]:
    sheet = (frontend.ASSETS / "src" / "tokens.css").read_text(encoding="utf-8")
    blocks = re.findall(r"\{([^{}]+)\}", sheet)
    light, system_dark, chosen_dark = (dict(re.findall(r"--([\w-]+): (#\w{6})", block)) for block in blocks)
    assert system_dark == chosen_dark
    return {"light": light, "dark": light | chosen_dark}


def _luminance(colour: str) -> float:
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_meets_the_contrast_of_wcag_aa(theme: str) -> None:
    colours = _themes()[theme]
    weak = {}
    for text, ground in PAIRS:
        dark, light = sorted((_luminance(colours[text]), _luminance(colours[ground])))
        ratio = (light + 0.05) / (dark + 0.05)
        if ratio < 4.5:
            weak[f"{text} on {ground}"] = round(ratio, 2)
    assert weak == {}
