"""Scrubbing: no answer says who wrote it, and no answer is changed for speaking of llamas."""

from __future__ import annotations

import pytest

from master.council.scrub import STAND_IN, Scrubber

scrub = Scrubber(
    ["llama3.2:1b", "qwen2.5:0.5b", "hf.co/bartowski/Zorblax-7B-GGUF:Q4_K_M", "phi3.5", "mistral"]
)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("I am Llama, a model by Meta AI.", "Llama"),
        ("I am Llama, a model by Meta AI.", "Meta"),
        ("As Qwen, I think so.", "Qwen"),
        ("I'm Phi 3, developed by Microsoft. Four.", "Phi"),
        ("I\u2019m ChatGPT.", "ChatGPT"),
        ("My name is Zorblax and I say four.", "Zorblax"),
        ("Ich bin Gemma, ein Sprachmodell von Google.", "Google"),
        ("Je suis Mistral.", "Mistral"),
        ("我是Qwen。", "Qwen"),
        ("저는 ChatGPT입니다.", "ChatGPT"),
        ("The answer of llama3.2:1b is four.", "llama3.2"),
        ("qwen2.5:0.5b here: four.", "qwen"),
        ("Signed, Zorblax-7B-GGUF", "Zorblax"),
        ("Unlike GPT-4o, four.", "GPT"),
        ("With Llama-3.1-8B-Instruct one gets four.", "Llama"),
    ],
)
def test_what_tells_the_author_is_replaced(text: str, name: str) -> None:
    scrubbed = scrub(text)
    assert name.lower() not in scrubbed.lower()
    assert STAND_IN in scrubbed


@pytest.mark.parametrize(
    "text",
    [
        "The llama is a domesticated camelid of the Andes.",
        "The golden ratio φ, phi, is about 1.618.",
        "Claude Monet painted water lilies.",
        "Microsoft was founded in 1975. Google came later.",
        "def phi(n):\n    return sum(gcd(i, n) == 1 for i in range(n))\n",
        "<b>2 &lt; 3</b> && x > 1",
        "Mistral winds blow; the falcon flies.\n\n\nGemini is a zodiac sign…",
        "",
    ],
)
def test_an_answer_about_something_else_is_left_as_it_is(text: str) -> None:
    assert scrub(text) == text


def test_only_the_sentence_that_speaks_of_itself_is_changed() -> None:
    assert scrub("Llamas spit. I am Llama. The llama is an animal.") == (
        f"Llamas spit. I am {STAND_IN}. The llama is an animal."
    )


def test_a_long_text_is_scrubbed_in_linear_time() -> None:
    assert scrub("a.b" * 20_000 + " I am Qwen.").endswith(f"I am {STAND_IN}.")
