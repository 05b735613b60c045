"""A llama.cpp server in a process of its own: `python -m stack.llm_server --model FILE --port 8088 ...`.

It listens on loopback with the OpenAI-compatible API. Slots and context are fixed at the start: `slots`
answers at a time, each with `context` tokens for prompt and answer; more than that waits or is refused by it.
Ends on SIGTERM and SIGINT, answers under way with it.
"""

import argparse
import os
import signal
from collections.abc import Sequence
from pathlib import Path

from core.settings import LOOPBACK

THREADS_HTTP = 16
"""Each open stream holds one; the rest are for probes and for those who count tokens meanwhile."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until a signal comes."""
    parser = argparse.ArgumentParser(prog="stack.llm_server")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--slots", type=int, required=True)
    parser.add_argument("--context", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    chosen = parser.parse_args(arguments)
    wanted = {signal.SIGTERM, signal.SIGINT}
    # before the server's own threads exist, so that none of them takes the signals
    signal.pthread_sigmask(signal.SIG_BLOCK, wanted)

    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(chosen.model)
    parameters.model_alias = {chosen.name}
    parameters.hostnames = [LOOPBACK]
    parameters.port = chosen.port
    parameters.n_parallel = chosen.slots
    parameters.n_ctx = chosen.slots * chosen.context
    parameters.n_threads_http = chosen.slots + THREADS_HTTP
    parameters.cpuparams.n_threads = chosen.threads
    parameters.cpuparams_batch.n_threads = chosen.threads
    parameters.cache_ram_mib = 64
    parameters.endpoint_slots = True
    parameters.ui = False
    parameters.cors_origins = f"http://{LOOPBACK}"
    server = xllamacpp.Server(parameters)
    print(f"serving {chosen.name} at {server.listening_address}", flush=True)
    signal.sigwait(wanted)
    os._exit(0)  # its destructor waits for the answers under way


if __name__ == "__main__":
    main()
