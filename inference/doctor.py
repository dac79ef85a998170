"""Why did an engine end? Exit code and last lines of its log → reason and sentence. PURE."""

import re
import signal
from dataclasses import dataclass


@dataclass(frozen=True)
class Diagnosis:
    reason: str  # of the provisioners' closed set
    message: str


# First match wins: the particular before the general.
_SIGNS: tuple[tuple[str, Diagnosis], ...] = (
    (
        r"CUDA out of memory|OutOfMemoryError|No available memory for the cache blocks"
        r"|Free memory on device .* is less than desired",
        Diagnosis(
            "out_of_memory",
            "The model does not fit into the GPU's memory. Choose a shorter context, a smaller "
            "model or more GPUs.",
        ),
    ),
    (
        r"MemoryError|Cannot allocate memory|DefaultCPUAllocator: can't allocate memory",
        Diagnosis("out_of_memory", "The machine ran out of memory while the model was loading."),
    ),
    (
        r"KV cache is needed, which is larger than|larger than the maximum number of tokens",
        Diagnosis(
            "bad_arguments",
            "The context length needs more memory for conversations than there is. Choose a "
            "shorter one.",
        ),
    ),
    (
        r"max_model_len .* is greater than the derived max_model_len",
        Diagnosis("bad_arguments", "The context length is greater than the model's own."),
    ),
    (
        r"trust_remote_code|trust-remote-code",
        Diagnosis(
            "bad_arguments",
            "The model wants to run code of its own, which is refused here.",
        ),
    ),
    (
        r"Model architectures .* not supported|architectures? .* (are|is) not supported",
        Diagnosis("bad_arguments", "The engine does not know this model's architecture."),
    ),
    (
        r"No space left on device",
        Diagnosis("insufficient_capacity", "The disk is full."),
    ),
    (
        r"NVIDIA driver on your system is too old|CUDA driver version is insufficient",
        Diagnosis("image_error", "The machine's NVIDIA driver is too old for the engine."),
    ),
    (
        r"unrecognized arguments|error: argument ",
        Diagnosis("bad_arguments", "The engine does not accept one of the settings."),
    ),
    (
        r"ModuleNotFoundError|ImportError|cannot be started: No such file",
        Diagnosis("image_error", "The engine's environment is damaged. Install the engine again."),
    ),
)


def diagnose(exit_code: int | None, log_tail: list[str]) -> Diagnosis:
    """`exit_code` is negative for a signal, None where nobody was there to see it."""
    text = "\n".join(log_tail)
    for sign, diagnosis in _SIGNS:
        if re.search(sign, text):
            return diagnosis
    if exit_code == -signal.SIGKILL:
        return Diagnosis(
            "crashed",
            "The engine was killed. Most often the system does so when memory runs out.",
        )
    if exit_code is not None and exit_code < 0:
        return Diagnosis("crashed", f"The engine was ended by signal {-exit_code}.")
    if exit_code is None:
        return Diagnosis("crashed", "The engine is gone, and nobody saw how it ended.")
    return Diagnosis("crashed", f"The engine ended by itself with code {exit_code}.")
