"""The child process that holds one model: llama.cpp's HTTP server on a loopback port of its own.

    python -m worker_node.engines.llama_process --model FILE --slots N --context TOKENS_PER_SLOT

A process of its own, because an abort inside llama.cpp takes its process along. When the model is ready,
one JSON line is printed, `{"port": 40123}`, or `{"error": "…"}` before an exit with 1. The process ends on
SIGTERM and when its standard input closes, so that it never outlives the node that started it. llama.cpp
logs to standard error. Requests need the key of `COUNCIL_LLAMA_KEY` where it is set.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from typing import Any
from urllib.parse import urlsplit

KEY_VARIABLE = "COUNCIL_LLAMA_KEY"
_LEAVE_WITHIN_S = 1.0


def main(arguments: list[str] | None = None) -> int:
    """Serve until told to stop; returns the exit code."""
    options = _parser().parse_args(arguments)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    # Ctrl-C in a terminal reaches the whole group; the node decides when its engines stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_watch_parent, args=(stop,), daemon=True, name="parent-watch").start()
    try:
        server = _serve(options)
    except (RuntimeError, ValueError, OSError, MemoryError) as error:
        _tell({"error": str(error) or type(error).__name__})
        return 1
    _tell({"port": urlsplit(server.listening_address).port})
    # In short waits: Windows does not wake a wait without end for a signal.
    while not stop.wait(0.5):
        pass
    _leave_soon()
    del server
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="llama_process", description="Serve one GGUF file.")
    parser.add_argument("--model", required=True, help="path of the GGUF file")
    parser.add_argument("--slots", type=int, required=True, help="calls that run at once")
    parser.add_argument("--context", type=int, required=True, help="tokens of one slot")
    parser.add_argument("--threads", type=int, default=0, help="0: what llama.cpp chooses")
    parser.add_argument("--embeddings", action="store_true", help="serve mean-pooled embeddings")
    parser.add_argument(
        "--gpu-layers",
        type=int,
        default=int(os.environ.get("N_GPU_LAYERS") or -1),
        help="layers on the GPU; -1: as many as fit (also from N_GPU_LAYERS)",
    )
    return parser


def _serve(options: argparse.Namespace) -> Any:
    """Load the model and listen; returns llama.cpp's server, which runs in threads of its own."""
    # A crash would otherwise start a debugger that writes to standard output and takes seconds.
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = options.model
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    key = os.environ.pop(KEY_VARIABLE, "")
    if key:
        params.api_keys = [key]
    params.n_parallel = options.slots
    # llama.cpp takes the total and divides it by the slots.
    params.n_ctx = options.context * options.slots
    params.kv_unified = False
    # One thread per streamed answer, and some for questions about health and for what waits.
    params.n_threads_http = options.slots + 4
    if options.threads > 0:
        params.cpuparams.n_threads = options.threads
        params.cpuparams_batch.n_threads = options.threads
    params.n_gpu_layers = options.gpu_layers
    params.warmup = False
    params.ui = False
    params.endpoint_slots = True
    # A full slot ends its answer with `length`; shifting would forget the question without a word.
    params.ctx_shift = False
    params.cache_ram_mib = 0
    params.cache_idle_slots = False
    params.verbosity = 2  # errors and warnings; the next level writes nine lines for each call
    if options.embeddings:
        params.embedding = True
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
        # A text is pooled within one batch, so the batch has to hold the longest one.
        params.n_batch = params.n_ubatch = options.context
    return xllamacpp.Server(params)


def _watch_parent(stop: threading.Event) -> None:
    """Set `stop` when standard input closes. Reads the descriptor: a buffered reader blocks the exit."""
    try:
        while os.read(0, 4096):
            pass
    except OSError:
        pass
    stop.set()
    _leave_soon()


def _leave_soon() -> None:
    """End the process for certain: llama.cpp may compute on, and while loading it hears nothing."""
    timer = threading.Timer(_LEAVE_WITHIN_S, os._exit, args=(0,))
    timer.daemon = True
    timer.start()


def _tell(line: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
