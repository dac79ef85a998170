"""What one may choose of vLLM, and what presets choose. PURE.

Only settings that stand here reach a command line. Left out on purpose: whatever runs foreign code
(`trust_remote_code`, plugins, middleware), names a file (chat templates, other than the model's
own) or opens a port.
"""

from collections.abc import Mapping

from inference.engines.base import Group, Setting, SettingValue, gettext_noop
from inference.engines.lora import RANKS
from inference.engines.vllm_parsers import REASONING_PARSERS, TOOL_PARSERS

CPU_KV_GIB = 1
DRAFTING = ("eagle", "eagle3", "draft_model")  # methods of speculation with a second model

# Values for what is left at automatic. Each is of use on some machine only: a machine without
# GPUs passes over shares of GPU memory, one with GPUs over `kv_cache_gib`.
PRESETS: Mapping[str, Mapping[str, SettingValue]] = {
    # Few at a time, and short steps, so that nobody's prompt delays another's next word.
    "latency": {
        "max_num_seqs": 16,
        "max_num_batched_tokens": 2048,
        "performance_mode": "interactivity",
    },
    # Many at a time, and long steps.
    "throughput": {
        "max_num_seqs": 512,
        "max_num_batched_tokens": 16384,
        "performance_mode": "throughput",
        "gpu_memory_utilization": 0.95,
        "kv_cache_gib": 2,
    },
    # All room for few long conversations.
    "context": {
        "max_num_seqs": 8,
        "kv_cache_dtype": "fp8",
        "gpu_memory_utilization": 0.95,
        "kv_cache_gib": 4,
    },
    # The smallest GPU that will do, well filled: weights and conversations at 8 bits.
    "cost": {
        "max_num_seqs": 256,
        "quantization": "fp8",
        "kv_cache_dtype": "fp8",
        "gpu_memory_utilization": 0.95,
        "kv_cache_gib": 1,
    },
}

SETTINGS: tuple[Setting, ...] = (
    Setting(
        name="preset",
        label=gettext_noop("Preset"),
        help=gettext_noop(
            "What matters most: fast answers, many answers, long conversations or a small bill. "
            "It fills in what you leave empty or automatic below."
        ),
        kind="choice",
        default="none",
        choices=("none", *PRESETS),
        group=Group.BASIC,
    ),
    Setting(
        name="max_model_len",
        label=gettext_noop("Context length"),
        help=gettext_noop("Tokens of prompt and answer together; less needs less memory."),
        kind="int",
        minimum=16,
        maximum=10_000_000,
        group=Group.BASIC,
    ),
    Setting(
        name="dtype",
        label=gettext_noop("Number format"),
        help=gettext_noop("How weights are held in memory; automatic follows the model."),
        kind="choice",
        default="auto",
        choices=("auto", "bfloat16", "float16", "float32"),
        group=Group.BASIC,
    ),
    Setting(
        name="runner",
        label=gettext_noop("Purpose"),
        help=gettext_noop("Generate text, or turn text into vectors (embeddings)."),
        kind="choice",
        default="generate",
        choices=("generate", "pooling"),
        group=Group.BASIC,
    ),
    # Memory and context
    Setting(
        name="quantization",
        label=gettext_noop("Quantize on loading"),
        help=gettext_noop(
            "Weights at 8 bits take half the memory and lose a little accuracy. Automatic takes "
            "them as the files have them; files that are quantized already stay as they are."
        ),
        kind="choice",
        default="auto",
        choices=("auto", "fp8", "fp8_per_block", "int8_per_channel_weight_only"),
        variants=("cuda",),
        group=Group.MEMORY,
    ),
    Setting(
        name="gpu_memory_utilization",
        label=gettext_noop("Share of GPU memory"),
        help=gettext_noop("The part of each GPU's memory that the engine may take (usual: 0.9)."),
        kind="float",
        minimum=0.1,
        maximum=0.98,
        variants=("cuda",),
        group=Group.MEMORY,
    ),
    Setting(
        name="sleep_mode",
        label=gettext_noop("Sleep in memory"),
        help=gettext_noop(
            "Asleep, it keeps its weights in the machine's memory and wakes in seconds, for as "
            "long as nobody else needs its GPUs. Without it, it starts anew each time."
        ),
        kind="bool",
        default=True,
        variants=("cuda",),
        group=Group.MEMORY,
    ),
    Setting(
        name="kv_cache_gib",
        label=gettext_noop("Memory for conversations (GiB)"),
        help=gettext_noop("Kept for the tokens of running requests (KV cache; usual: 1)."),
        kind="int",
        minimum=1,
        maximum=1024,
        variants=("cpu",),
        group=Group.MEMORY,
    ),
    Setting(
        name="kv_cache_dtype",
        label=gettext_noop("Number format of conversations"),
        help=gettext_noop(
            "How the KV cache holds tokens: with fp8, twice as many find room, a little less exact."
        ),
        kind="choice",
        default="auto",
        choices=("auto", "fp8", "fp8_e4m3", "fp8_e5m2"),
        variants=("cuda",),
        group=Group.MEMORY,
    ),
    # Speed
    Setting(
        name="performance_mode",
        label=gettext_noop("Tuned for"),
        help=gettext_noop("Quick single answers, or many answers in all; balanced is between."),
        kind="choice",
        default="auto",
        choices=("auto", "balanced", "interactivity", "throughput"),
        group=Group.SPEED,
    ),
    Setting(
        name="max_num_seqs",
        label=gettext_noop("Requests at a time"),
        help=gettext_noop("How many requests are computed side by side; others wait."),
        kind="int",
        minimum=1,
        maximum=4096,
        group=Group.SPEED,
    ),
    Setting(
        name="max_num_batched_tokens",
        label=gettext_noop("Tokens per step"),
        help=gettext_noop(
            "How much of the prompts is read in one step: more is faster in all, less lets running "
            "answers flow evenly. At least the requests at a time."
        ),
        kind="int",
        minimum=64,
        maximum=1_048_576,
        group=Group.SPEED,
    ),
    Setting(
        name="enable_prefix_caching",
        label=gettext_noop("Prefix caching"),
        help=gettext_noop("Beginnings of prompts that were seen before are not computed anew."),
        kind="bool",
        default=True,
        group=Group.SPEED,
    ),
    Setting(
        name="speculation",
        label=gettext_noop("Speculative decoding"),
        help=gettext_noop(
            "Guess several tokens and check them in one step; the answer stays the same. ngram "
            "guesses from the text so far and suits code and summaries; mtp needs a model that was "
            "trained to guess; eagle, eagle3 and draft_model have a second, small model guess. "
            "Requests with min_p or logit_bias are then refused."
        ),
        kind="choice",
        default="none",
        choices=("none", "ngram", "mtp", *DRAFTING),
        group=Group.SPEED,
    ),
    Setting(
        name="speculative_tokens",
        label=gettext_noop("Tokens to guess"),
        help=gettext_noop("Per step; more pay off where guesses are often right."),
        kind="int",
        minimum=1,
        maximum=16,
        group=Group.SPEED,
    ),
    Setting(
        name="prompt_lookup_min",
        label=gettext_noop("Shortest match"),
        help=gettext_noop("For ngram: tokens that must agree with earlier text, at the least."),
        kind="int",
        minimum=1,
        maximum=32,
        group=Group.SPEED,
    ),
    Setting(
        name="prompt_lookup_max",
        label=gettext_noop("Longest match"),
        help=gettext_noop("For ngram: tokens that are compared with earlier text, at the most."),
        kind="int",
        minimum=1,
        maximum=32,
        group=Group.SPEED,
    ),
    # Tools and reasoning
    Setting(
        name="tool_call_parser",
        label=gettext_noop("Tool calls"),
        help=gettext_noop("How this model's family writes tool calls; without, they stay text."),
        kind="choice",
        default="none",
        choices=("none", *TOOL_PARSERS),
        group=Group.TOOLS,
    ),
    Setting(
        name="reasoning_parser",
        label=gettext_noop("Reasoning"),
        help=gettext_noop(
            "How this model's family marks its thoughts, which are then kept apart from the answer."
        ),
        kind="choice",
        default="none",
        choices=("none", *REASONING_PARSERS),
        group=Group.TOOLS,
    ),
    # Advanced
    Setting(
        name="tensor_parallel",
        label=gettext_noop("GPUs per layer"),
        help=gettext_noop(
            "Tensor parallelism: each layer is split over so many GPUs. Empty: as many as the "
            "other two leave."
        ),
        kind="int",
        minimum=1,
        maximum=64,
        variants=("cuda",),
    ),
    Setting(
        name="pipeline_parallel",
        label=gettext_noop("Groups of layers"),
        help=gettext_noop(
            "Pipeline parallelism: the layers are dealt out to so many groups of GPUs."
        ),
        kind="int",
        minimum=1,
        maximum=64,
        variants=("cuda",),
    ),
    Setting(
        name="data_parallel",
        label=gettext_noop("Copies of the model"),
        help=gettext_noop(
            "Data parallelism: so many copies, each on its own GPUs, share the work."
        ),
        kind="int",
        minimum=1,
        maximum=64,
        variants=("cuda",),
    ),
    Setting(
        name="enable_lora",
        label=gettext_noop("LoRA adapters"),
        help=gettext_noop(
            "Keeps room for adapters, which come and go without a restart. Each is a model name of "
            "its own."
        ),
        kind="bool",
        default=False,
    ),
    Setting(
        name="max_loras",
        label=gettext_noop("Adapters at a time"),
        help=gettext_noop(
            "How many may be at work in the same step (usual: 1). Requests for others wait; each "
            "takes memory."
        ),
        kind="int",
        minimum=1,
        maximum=64,
    ),
    Setting(
        name="max_lora_rank",
        label=gettext_noop("Largest rank of adapters"),
        help=gettext_noop(
            "Each adapter says its rank (r); room is taken for the largest. Automatic: 16."
        ),
        kind="choice",
        default="auto",
        choices=("auto", *map(str, RANKS)),
    ),
    Setting(
        name="keep_responses",
        label=gettext_noop("Keep responses"),
        help=gettext_noop(
            "Answers of /v1/responses stay in the engine's memory until it stops, for programs "
            "that ask for them again or have them made in the background."
        ),
        kind="bool",
        default=False,
    ),
    Setting(
        name="enforce_eager",
        label=gettext_noop("Start without compiling"),
        help=gettext_noop("The engine is up sooner and answers more slowly."),
        kind="bool",
        default=False,
        variants=("cuda",),
    ),
)
