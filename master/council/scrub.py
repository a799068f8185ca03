"""Take out of an answer what tells which model wrote it: judges prefer answers they recognise as their own.

Full model names and versioned families ("Qwen2.5", "GPT-4o") are replaced wherever they stand. A bare family
or maker ("Llama", "Meta") is replaced only in a sentence that speaks of itself, for elsewhere it may be what
the answer is about: an animal, a Greek letter.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

STAND_IN = "[an assistant]"

_FAMILIES = frozenset(
    """
    alpaca aya chatglm chatgpt claude codellama codestral command-r deepseek dolphin exaone falcon
    gemini gemma glm gpt gpt-oss granite grok hermes internlm kimi lfm llama ministral mistral mixtral
    nemotron olmo openchat orca phi qwen qwq smollm solar stablelm starcoder tinyllama vicuna wizardlm
    yi zephyr
    """.split()
)
_MAKERS = (
    "alibaba cloud|alibaba|anthropic|cohere|deepmind|deepseek|google deepmind|google|hugging ?face|ibm|"
    "meta ai|meta|microsoft|mistral ai|moonshot ai|nvidia|openai|tii|tongyi|xai|zhipu ai|zhipu"
)
# First persons of the commoner languages, and the words with which a model speaks of itself.
_OF_ITSELF = re.compile(
    r"\b(i am|i['\u2019]m|as an?|my name|call me|called|(?:created|developed|trained|made|built) by|"
    r"language model|ai model|assistant|ich bin|mein name|sprachmodell|entwickelt von|"
    r"je suis|je m['\u2019]appelle|modèle de langage|développé par|soy|me llamo|modelo de lenguaje|"
    r"desarrollado por|sono|mi chiamo|modello linguistico|eu sou|modelo de linguagem|ik ben|taalmodel|"
    r"jestem|jag är|jeg er|minä olen|olen|я|меня зовут|языковая модель)\b|"
    r"我是|我叫|语言模型|私は|言語モデル|저는|언어 모델|أنا|मैं",
    re.IGNORECASE,
)
_ENDS = ".!?\u3002\uff01\uff1f"
# A full stop inside a word ("qwen2.5", "e.g.x") ends no sentence.
_SENTENCE = re.compile(rf"[^{_ENDS}\n]*(?:\.(?=\S)[^{_ENDS}\n]*)*[{_ENDS}\n]*")


class Scrubber:
    """Scrubs for one council: its own model names count beside the families that are known."""

    def __init__(self, models: Iterable[str]) -> None:
        names: set[str] = set()
        families = set(_FAMILIES)
        for model in models:
            base = model.rsplit("/", 1)[-1]
            names |= {name for name in (model, base, base.split(":")[0]) if re.search(r"[\d/:_-]", name)}
            family = re.match(r"[^\W\d_]{3,}", base)
            if family:
                families.add(family.group().lower())
        stems = _either(families)
        full = _either(names)
        versioned = rf"(?:{stems})[-_]?v?\d[\w.:-]*\w|(?:{stems})[-_]?v?\d"
        # The edges of a word are ASCII ones: Chinese and Korean put no space beside a foreign name.
        before, after = r"(?<![A-Za-z0-9_-])", r"(?![A-Za-z0-9_])"
        self._anywhere = re.compile(
            rf"{before}(?:{full + '|' if full else ''}{versioned}){after}", re.IGNORECASE
        )
        self._in_context = re.compile(
            rf"{before}(?:(?:{stems})(?:[ -]v?\d[\w.:-]*)?|{_MAKERS}){after}", re.IGNORECASE
        )
        self._as_itself = re.compile(rf"\b(?:as|als|como|come|en tant que) (?:{stems}){after}", re.IGNORECASE)

    def __call__(self, text: str) -> str:
        text = self._anywhere.sub(STAND_IN, text)
        return _SENTENCE.sub(self._scrub_sentence, text)

    def _scrub_sentence(self, match: re.Match[str]) -> str:
        sentence = match.group()
        if not _OF_ITSELF.search(sentence) and not self._as_itself.search(sentence):
            return sentence
        return self._in_context.sub(STAND_IN, sentence)


def _either(words: Iterable[str]) -> str:
    return "|".join(re.escape(word) for word in sorted(words, key=lambda word: (-len(word), word)))
