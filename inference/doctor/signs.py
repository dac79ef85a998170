"""What gives a failure away in a log, and the figures that stand there. PURE.

Texts are vLLM's (0.32 and 0.33), torch's, transformers', llama.cpp's (build 11549) and the
supervisor's own. Two traps: a
healthy engine prints all its arguments, so that a bare name of one is no sign; and the engine core
dies first, whereupon its parent complains that it is gone, so that causes stand before effects.
"""

import re
from dataclasses import dataclass

from inference.doctor.codes import Code


@dataclass(frozen=True)
class Sign:
    """First match wins: the particular before the general. Named groups are facts."""

    code: Code
    pattern: re.Pattern[str]


def _sign(code: Code, *patterns: str) -> list[Sign]:
    return [Sign(code, re.compile(pattern)) for pattern in patterns]


SIGNS: tuple[Sign, ...] = (
    # Settings that the engine weighs before it loads anything
    *_sign(
        Code.OWN_CONTEXT,
        r"max_model_len \((?P<wanted>\d+)\) is greater than the derived max_model_len "
        r"\(\w+=(?P<own_context>\d+)",
        r"max_model_len .* is greater than the derived max_model_len",
    ),
    *_sign(
        Code.HEADS,
        r"attention heads \((?P<heads>\d+)\) must be divisible by tensor parallel size "
        r"\((?P<gpus>\d+)\)",
        r"(?P<heads>\d+) is not divisible by (?P<gpus>\d+)$",
    ),
    *_sign(
        Code.TOO_MANY_GPUS,
        r"World size \((?P<wanted>\d+)\) is larger than the number of available GPUs "
        r"\((?P<gpus>\d+)\)",
    ),
    *_sign(
        Code.QUANTIZATION,
        r"quantization is currently not supported in",
        r"quantization method \S+ is not supported for the current GPU",
        r"[Uu]nknown quantization method",
        r"Missing '\w+' in quantization config",
        r"Quantization method specified in the model config .* does not match",
        r"'quantization'\s+.*[Ii]nput should be",
    ),
    *_sign(
        Code.NUMBER_FORMAT,
        r"Bfloat16 is only supported on GPUs",
        r"\S+ is not supported for quantization method",
        r"The model type \S+ does not support float16",
    ),
    *_sign(
        Code.OTHER_VOCABULARY,
        r"Target and draft model should have the same vocabulary size",
    ),
    # The model
    *_sign(
        Code.NEEDS_CODE,
        r"contains custom code which must be executed",
        r"[Pp]ass the (?:argument|option) `trust_remote_code=True`",
        r"requires you to execute the .* file in that repo",
        r"wants to run code of its own",
    ),
    *_sign(
        Code.UNKNOWN_ARCHITECTURE,
        r"Model architectures .* not supported",
        r"architectures? .* (?:are|is) not supported",
        r"model type `[^`]*` but Transformers does not recognize this architecture",
        r"has no vLLM implementation",
        r"error loading model: unknown model architecture",
        r"Cannot find model module",
    ),
    *_sign(
        Code.NO_CHAT_TEMPLATE,
        r"default chat template is no longer allowed",
    ),
    *_sign(
        Code.NO_TOKENIZER,
        r"Can't load tokenizer for",
        r"Couldn't instantiate the backend tokenizer",
        r"Unable to load vocabulary from file",
        r"error loading model vocabulary",
    ),
    *_sign(
        Code.DAMAGED_WEIGHTS,
        r"SafetensorError|Error while deserializing header",
        r"Cannot find any model weights",
        r"size mismatch for|Attempted to load weight .* into parameter",
        r"start \(\d+\) \+ length \(\d+\) exceeds dimension size",
        r"weights were not initialized from checkpoint",
        r"is not valid JSON|There is no config\.json",
        r"gguf_init_from_\w+: (?:failed|invalid|bad|tensor)",
        r"is not within the file bounds|error loading model hyperparameters",
    ),
    *_sign(Code.UNSAFE_WEIGHTS, r"weights are not in safetensors format"),
    # Memory
    *_sign(
        Code.KV_SPACE,
        r"max seq len \((?P<wanted>\d+)\), \((?P<needed_gib>[\d.]+) GiB KV cache is needed, which "
        r"is larger than the available KV cache memory \((?P<available_gib>[\d.]+) GiB\)"
        r"(?:.*?estimated maximum model length is (?P<max_context>\d+))?",
        r"KV cache is needed, which is larger than|larger than the maximum number of tokens",
    ),
    *_sign(Code.KV_NOTHING, r"No available memory for the cache blocks"),
    *_sign(
        Code.GPU_BUSY,
        r"Free memory on device \S* ?\((?P<free_gib>[\d.]+)/(?P<total_gib>[\d.]+) GiB\) on startup "
        r"is less than",
        r"Free memory on device .* is less than desired",
    ),
    *_sign(
        Code.GPU_MEMORY,
        r"CUDA out of memory|torch\.(?:cuda\.)?OutOfMemoryError|not enough GPU memory",
        r"CUDA error: out of memory|CUBLAS_STATUS_ALLOC_FAILED",
    ),
    *_sign(
        Code.HOST_MEMORY,
        r"Available memory on node \d+ \((?P<free_gib>[\d.]+)/(?P<total_gib>[\d.]+) GiB\) on kv "
        r"cache allocation is less than requested memory for kv \((?P<wanted_gib>[\d.]+)",
        r"Available memory on node .* is less than",
        r"(?<!OutOf)MemoryError|Cannot allocate memory|DefaultCPUAllocator: can't allocate memory",
        r"std::bad_alloc|out of memory on the host",
        r"ggml_aligned_malloc: insufficient memory|failed to allocate CPU buffer",
    ),
    # The machine
    *_sign(
        Code.DISK,
        r"No space left on device|Disk quota exceeded",
        r"more on the disk of|The model cannot be stored",
    ),
    *_sign(
        Code.DRIVER,
        r"NVIDIA driver on your system is too old|CUDA driver version is insufficient",
        r"Found no NVIDIA driver|No CUDA GPUs are available",
        r"no kernel image is available for execution|unsupported display driver",
    ),
    # Before there was an engine: the supervisor's words
    *_sign(Code.GATED, r"is gated: accept its licence|Access to model .* is restricted"),
    *_sign(Code.NO_ACCESS, r"The hub has no (?:model|such revision)|is not the name of a model"),
    *_sign(Code.DOWNLOAD, r"hub does not answer|the weights were fetched; try again"),
    # The last resorts
    *_sign(Code.BAD_SETTING, r"unrecognized arguments|error: argument "),
    *_sign(
        Code.ENVIRONMENT,
        r"ModuleNotFoundError|ImportError|cannot be started: No such file",
        r"The engine (?:could not|cannot) be installed",
    ),
    *_sign(
        Code.KILLED,
        r"Failed core proc\(s\): \{[^}]*: -9\b",
        r"Worker proc \S+ died unexpectedly \(exit code: (?:-9|None)\)",
        # It has gone without a word of its own.
        r"(?s)\A(?!.*EngineCore failed to start).*Failed core proc\(s\): \{\}",
        r"(?s)\A(?!.*EngineCore encountered a fatal).*engine core exited unexpectedly",
    ),
    *_sign(
        Code.SIGNAL,
        r"Failed core proc\(s\): \{[^}]*: -(?P<signal>\d+)\b",
        r"Worker proc \S+ died unexpectedly \(exit code: -(?P<signal>\d+)\)",
    ),
    *_sign(
        Code.BAD_SETTING,
        r"validation errors? for (?:Vllm|Engine|Model|Cache|Speculative)\w*(?:Config|Args)",
    ),
)

CONTEXT = re.compile(r"(?:Using max model len |max_seq_len=)(\d+)")
