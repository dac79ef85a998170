"""llama.cpp's own server, out of the package xllamacpp. Runs in the engine's own environment.

It is handed to the interpreter as text (see llama_cpp.py). It takes the flags of the program
`llama-server` that the house uses; the package has the server, and not its command line.
"""

import argparse
import signal
import sys
from typing import Any

import xllamacpp

FLASH_ATTENTION = {"on": "ENABLED", "off": "DISABLED", "auto": "AUTO"}


def flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for name in ("model", "alias", "host"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("parallel", "ctx-size", "cache-ram", "sse-ping-interval"):
        parser.add_argument(f"--{name}", type=int, required=True)
    for name in ("threads", "batch-size", "ubatch-size"):
        parser.add_argument(f"--{name}", type=int)
    for name in ("cache-type-k", "cache-type-v"):
        parser.add_argument(f"--{name}", default="f16")
    parser.add_argument("--pooling", choices=("mean", "cls", "last"))
    parser.add_argument("--flash-attn", choices=FLASH_ATTENTION, default="auto")
    for name in ("jinja", "metrics", "offline", "no-slots", "no-webui", "embeddings"):
        parser.add_argument(f"--{name}", action="store_true")
    return parser.parse_args()


def parameters(wanted: argparse.Namespace) -> Any:
    params = xllamacpp.CommonParams()
    params.model.path = wanted.model
    params.model_alias = {wanted.alias}
    params.hostnames = [wanted.host]
    params.n_parallel = wanted.parallel
    params.n_ctx = wanted.ctx_size
    params.kv_unified = False
    params.fit_params = False  # there is no GPU to fit it to
    params.cache_ram_mib = wanted.cache_ram
    params.sse_ping_interval = wanted.sse_ping_interval
    params.use_jinja = wanted.jinja
    params.endpoint_metrics = wanted.metrics
    params.endpoint_slots = not wanted.no_slots
    params.offline = wanted.offline
    params.ui = not wanted.no_webui
    params.embedding = wanted.embeddings
    params.cache_type_k = number_format(wanted.cache_type_k)
    params.cache_type_v = number_format(wanted.cache_type_v)
    attention = f"LLAMA_FLASH_ATTN_TYPE_{FLASH_ATTENTION[wanted.flash_attn]}"
    params.flash_attn_type = getattr(xllamacpp.llama_flash_attn_type, attention)
    if wanted.threads:
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = wanted.threads
    if wanted.batch_size:
        params.n_batch = wanted.batch_size
    if wanted.ubatch_size:
        params.n_ubatch = wanted.ubatch_size
    if wanted.pooling:
        pooling = f"LLAMA_POOLING_TYPE_{wanted.pooling.upper()}"
        params.pooling_type = getattr(xllamacpp.llama_pooling_type, pooling)
    return params


def number_format(name: str) -> Any:
    return getattr(xllamacpp.ggml_type, f"GGML_TYPE_{name.upper()}")


def main() -> None:
    # Blocked first, so that the server's threads leave it to us too.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT])
    wanted = flags()
    print(f"Loading {wanted.model}", flush=True)
    server = xllamacpp.Server(parameters(wanted))
    print(f"Listening on {server.listening_address}", flush=True)
    signal.sigwait([signal.SIGTERM, signal.SIGINT])
    sys.stdout.flush()


if __name__ == "__main__":
    main()
