"""A GGUF file of noise, for tests of what an engine does with a model that talks rubbish.

    python -m tests.random_weights OUT.gguf

A practice model whose matrices are overwritten by random numbers: it says arbitrary bytes and rarely ends.
"""

from __future__ import annotations

import sys
from pathlib import Path

import gguf
import numpy as np

from worker_node.practice_model import write_gguf
from worker_node.practice_text import BEE


def write_noise(path: Path, *, seed: int = 7) -> None:
    """Write the model to `path`; the same seed gives the same bytes."""
    write_gguf(path, BEE)
    noise = np.random.default_rng(seed)
    reader = gguf.GGUFReader(path, "r+")
    for tensor in reader.tensors:
        if tensor.data.ndim == 2:
            scale = 1.0 if tensor.name == "token_embd.weight" else 0.15
            tensor.data[:] = (noise.standard_normal(tensor.data.shape) * scale).astype(tensor.data.dtype)
    # The tag of practice models does not fit a model that is none.
    tags = reader.fields["general.tags"]
    tags.parts[tags.data[0]][:] = ord("-")
    reader.data.flush()


if __name__ == "__main__":
    write_noise(Path(sys.argv[1]))
