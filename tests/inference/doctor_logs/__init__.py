"""Logs of engines that failed, as `tests.inference.provoking` had them, cut to what is near.

Those that take a GPU, or much patience, are put together from the texts of the engine's source that
their first lines cite.
"""

from pathlib import Path

from inference.doctor import Code

# The exit code, what is to be found, and the figures read.
REAL: dict[str, tuple[int | None, Code, dict[str, int]]] = {
    "own_context": (1, Code.OWN_CONTEXT, {"wanted": 9999, "own_context": 2048}),
    "unknown_architecture": (1, Code.UNKNOWN_ARCHITECTURE, {}),
    "unknown_model_type": (1, Code.UNKNOWN_ARCHITECTURE, {}),
    "needs_code": (1, Code.NEEDS_CODE, {}),
    "heads": (1, Code.HEADS, {"heads": 4, "gpus": 3}),
    "unrecognized": (2, Code.BAD_SETTING, {}),
    "unknown_quantization": (1, Code.QUANTIZATION, {}),
    "other_vocabulary": (1, Code.OTHER_VOCABULARY, {}),
    "no_tokenizer": (1, Code.NO_TOKENIZER, {}),
    "no_weights": (1, Code.DAMAGED_WEIGHTS, {}),
    "truncated": (1, Code.DAMAGED_WEIGHTS, {}),
    "number_format": (1, Code.NUMBER_FORMAT, {}),
    "damaged_environment": (1, Code.ENVIRONMENT, {}),
    "llama_cpp_memory": (1, Code.HOST_MEMORY, {}),
    "llama_cpp_no_gguf": (1, Code.DAMAGED_WEIGHTS, {}),
    "llama_cpp_tokenizer": (1, Code.NO_TOKENIZER, {}),
    "llama_cpp_truncated": (1, Code.DAMAGED_WEIGHTS, {}),
    "llama_cpp_unknown": (1, Code.UNKNOWN_ARCHITECTURE, {}),
    "sleep_mode": (1, Code.BAD_SETTING, {}),
    "other_quantization": (1, Code.QUANTIZATION, {}),
    "other_shape": (1, Code.DAMAGED_WEIGHTS, {}),
    "kv_space": (1, Code.KV_SPACE, {"wanted": 2_000_000, "max_context": 1_048_448}),
    "host_memory": (1, Code.HOST_MEMORY, {"wanted_mib": 1_024_000}),
    "memory_limit": (1, Code.HOST_MEMORY, {}),
    "full_disk": (1, Code.DISK, {}),
    "killed": (-9, Code.KILLED, {}),
    "killed_core": (1, Code.KILLED, {}),
    "killed_serving_core": (0, Code.KILLED, {}),
    "killed_serving_worker": (0, Code.KILLED, {}),
    "no_chat_template": (None, Code.NO_CHAT_TEMPLATE, {}),
}
QUOTED: dict[str, tuple[Code, dict[str, int]]] = {
    "cuda_weights": (Code.GPU_MEMORY, {}),
    "cuda_kv_nothing": (Code.KV_NOTHING, {}),
    "cuda_busy": (Code.GPU_BUSY, {"free_mib": 31324, "total_mib": 81101}),
    "cuda_kv_space": (Code.KV_SPACE, {"max_context": 24_688, "wanted": 131_072}),
    "cuda_driver": (Code.DRIVER, {}),
    "cuda_none": (Code.DRIVER, {}),
    "cuda_bfloat16": (Code.NUMBER_FORMAT, {}),
    "cuda_quantization": (Code.QUANTIZATION, {}),
    "cuda_world_size": (Code.TOO_MANY_GPUS, {"wanted": 8, "gpus": 2}),
}


def read(name: str) -> list[str]:
    return (Path(__file__).parent / f"{name}.log").read_text().splitlines()
