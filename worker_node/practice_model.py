"""One practice model as the bytes of a GGUF file: a real llama architecture with weights in closed form.

What the file computes, with `a` the share of the one-hot part in an embedding of length 1:

    token_embd[t]   a one-hot of the token's class, then a fixed random direction (so that mean-pooled
                    embeddings are near for texts that share words, and far for others)
    attn_*          in `"label":` positions only: which label tokens the answer already holds
    ffn_*           nothing
    output          log P(next | class of the last token), less a penalty for labels already given

so the model says the walk of `practice_text` when it is left alone, and sensible JSON when a grammar leads
it: one critique per string, scores by temperament, no label twice. Same input, same bytes.
"""

from __future__ import annotations

import math
import string
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

from worker_node.practice_text import PRACTICE_TAG, Temperament, Walk, compile_text
from worker_node.practice_tokenizer import ENGLISH, spelled, train_merges, vocabulary

CONTEXT_LENGTH = 32768
MERGES = 400

_BOS, _TURN, _END_OF_TURN, _PAD = "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"
_SPECIAL = (_BOS, _TURN, _END_OF_TURN, _PAD)
_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

_WIDTH = 512  # length of an embedding
_HEAD = 64
_FEED_FORWARD = 32
_ONE_HOT = 0.02  # share of the class in an embedding; the rest is the token's random direction
_USED = 0.05  # how strongly a used label is noted beside it
_EPSILON = 1e-5

_UNLIKELY = -20.0  # log P of what the text never says; a grammar can still ask for it
_NEVER = -60.0

_LETTERS = string.ascii_uppercase
_SCORES = [str(score) for score in range(1, 11)]
_LABEL_KEY, _SCORE_KEY = '"label":', '"score":'
_KEYS = (_LABEL_KEY, _SCORE_KEY, '"reasoning":')
# Only answers hold these tokens: reading text cuts at the quotation mark.
_LABELS = [f'"{letter}"' for letter in _LETTERS]


def transitions(temperament: Temperament) -> dict[str, dict[str, float]]:
    """log P(next | last) by text, for every text that is a class of its own; `"\\n"` opens an answer.

    A grammar that constrains the answer leaves only some of the followers; their ratios then decide.
    """
    taken: set[str] = set()
    answer = compile_text(temperament.answer, taken)
    critique = compile_text(temperament.critique, taken)
    table: dict[str, dict[str, float]] = {}
    for walk, opener, closer in ((answer, "\n", _END_OF_TURN), (critique, '"', '"')):
        for phrase, followers in walk.edges.items():
            row = table.setdefault(opener if phrase == Walk.START else phrase, {})
            for follower, share in followers.items():
                row[closer if follower == Walk.END else follower] = math.log(share)
    for phrase in critique.phrases:
        table[phrase].setdefault('"', -6.0)  # where a bounded string has no room for the next phrase
    table["\n"] |= {"{": -12.0, "[": -14.0}
    table['"'] |= {":": -9.0, "}": -10.0, "]": -11.0, ",": -11.5}
    # A known key is always said as one token: the label that follows must be seen as one.
    table["{"] = {key: -1.5 for key in _KEYS} | {'"': -12.0}
    table[","] = {key: -1.5 for key in _KEYS} | {"{": -2.0, '"': -12.0}
    table[":"] = {'"': -0.5, "[": -2.0, "{": -3.0, "5": -4.0, "true": -5.0}
    table["["] = {"{": -0.7, '"': -1.0}
    table["]"] = {"}": -0.1, ",": -3.0}
    table["}"] = {",": -0.2, "]": -2.0}
    table['"reasoning":'] = {'"': -0.1}
    table[_LABEL_KEY] = {token: -4.0 - index * 0.01 for index, token in enumerate(_LABELS)}
    total = sum(temperament.score_weights)
    table[_SCORE_KEY] = {
        score: math.log(weight / total)
        for score, weight in zip(_SCORES, temperament.score_weights, strict=True)
    }
    for score in _SCORES:
        table[score] = {"}": -0.3, ",": -1.5}
    for token in _LABELS:
        table[token] = {",": -0.1, "}": -3.0}
    return table


def write_gguf(path: Path, temperament: Temperament, *, seed: int = 7) -> None:
    """Write the model to `path`, which must not be in use by anyone else. About 2 MB."""
    table = transitions(temperament)
    merges = train_merges([ENGLISH, *temperament.answer, *temperament.critique], MERGES)
    named = dict.fromkeys([*table, *(follower for row in table.values() for follower in row)])
    tokens = vocabulary(merges, [text for text in named if text not in _SPECIAL])
    tokens += _SPECIAL
    writer = gguf.GGUFWriter(path, "llama")
    try:
        _add_metadata(writer, temperament, tokens, merges)
        for name, tensor in _tensors(table, tokens, seed).items():
            writer.add_tensor(name, tensor)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def _add_metadata(
    writer: gguf.GGUFWriter, temperament: Temperament, tokens: list[str], merges: list[tuple[str, str]]
) -> None:
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(temperament.name)
    writer.add_description("A practice model: readable text without meaning, written by lan-council itself.")
    writer.add_tags([PRACTICE_TAG])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_context_length(CONTEXT_LENGTH)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(_FEED_FORWARD)
    writer.add_head_count(1)
    writer.add_head_count_kv(1)
    writer.add_key_length(_HEAD)
    writer.add_value_length(_HEAD)
    writer.add_rope_dimension_count(_HEAD)
    # So slow a rotation that the last dimensions of a head do not know the position.
    writer.add_rope_freq_base(1e9)
    writer.add_layer_norm_rms_eps(_EPSILON)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    normal = len(tokens) - len(_SPECIAL)
    writer.add_token_types([gguf.TokenType.NORMAL] * normal + [gguf.TokenType.CONTROL] * len(_SPECIAL))
    writer.add_token_merges([f"{left} {right}" for left, right in merges])
    writer.add_bos_token_id(tokens.index(_BOS))
    writer.add_eos_token_id(tokens.index(_END_OF_TURN))
    writer.add_pad_token_id(tokens.index(_PAD))
    writer.add_add_bos_token(False)
    writer.add_chat_template(_CHAT_TEMPLATE)


def _tensors(
    table: dict[str, dict[str, float]], tokens: list[str], seed: int
) -> dict[str, npt.NDArray[np.float16] | npt.NDArray[np.float32]]:
    ids = {token: index for index, token in enumerate(tokens)}

    def token_id(text: str) -> int:
        return ids[text] if text in _SPECIAL else ids[spelled(text)]

    # Class 0 is every token without a row of its own; it goes on like the opening of an answer.
    rows: list[dict[str, float]] = [table["\n"], *table.values()]
    class_of = np.zeros(len(tokens), dtype=np.int64)
    for index, text in enumerate(table, start=1):
        class_of[token_id(text)] = index
    used_at = len(rows)
    random_at = used_at + len(_LETTERS)
    if random_at >= _WIDTH:
        raise ValueError(f"{len(rows)} phrases are too many for a width of {_WIDTH}")

    embedding = np.zeros((len(tokens), _WIDTH))
    direction = np.random.default_rng(seed).standard_normal((len(tokens), _WIDTH - random_at))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    embedding[:, random_at:] = direction * math.sqrt(1.0 - _ONE_HOT**2)
    embedding[np.arange(len(tokens)), class_of] = _ONE_HOT

    # A normalised state is sqrt(width) times a vector of length 1: weights are divided by that again.
    one_hot_seen = math.sqrt(_WIDTH) * _ONE_HOT
    logits = np.full((len(tokens), len(rows)), _UNLIKELY)
    for index, row in enumerate(rows):
        for follower, log_p in row.items():
            logits[token_id(follower), index] = log_p
    for special in (_BOS, _TURN, _PAD):
        logits[ids[special], :] = _NEVER
    output = np.zeros((len(tokens), _WIDTH))
    output[:, : len(rows)] = logits / one_hot_seen

    head = {name: np.zeros((_HEAD, _WIDTH)) for name in ("attn_q", "attn_k", "attn_v")}
    attention_output = np.zeros((_WIDTH, _HEAD))
    # Score of a label token as seen from `"label":`, far above the 0 of every other token.
    strength = math.sqrt(25.0 * math.sqrt(_HEAD)) / one_hot_seen
    head["attn_q"][_HEAD - 2, class_of[token_id(_LABEL_KEY)]] = strength
    for number, spelling in enumerate(_LABELS):
        label = token_id(spelling)
        head["attn_k"][_HEAD - 2, class_of[label]] = strength
        head["attn_v"][number, class_of[label]] = 1.0 / one_hot_seen
        attention_output[used_at + number, number] = _USED
        # Attention is shared by all labels given so far: 30 nats remain for each of 26.
        output[label, used_at + number] = -30.0 * len(_LABELS) / (math.sqrt(_WIDTH) * _USED)

    block = "blk.0."
    norm = np.ones(_WIDTH, dtype=np.float32)
    feed = np.zeros((_FEED_FORWARD, _WIDTH), dtype=np.float16)
    return {
        "token_embd.weight": embedding.astype(np.float16),
        "output_norm.weight": norm,
        "output.weight": output.astype(np.float16),
        block + "attn_norm.weight": norm,
        **{f"{block}{name}.weight": weight.astype(np.float16) for name, weight in head.items()},
        block + "attn_output.weight": attention_output.astype(np.float16),
        block + "ffn_norm.weight": norm,
        block + "ffn_gate.weight": feed,
        block + "ffn_up.weight": feed,
        block + "ffn_down.weight": feed.T.copy(),
    }
