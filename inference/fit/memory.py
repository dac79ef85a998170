"""What weights and conversations take. PURE: numbers in, bytes out.

Where a rule is vLLM's, it was read in the source of 0.32; the file is named.
"""

from inference.model_card import ModelCard
from inference.model_shape import Shape

GIB = 1024**3

# Tokens and requests of one step where nobody sets them, by the GPU's memory (engine/arg_utils.py,
# for the OpenAI server). An A100 of 80 GB counts as a smaller GPU there; here it does not, which
# for the tokens is the safe side.
STEPS = ((160 * GIB, 16_384, 1024), (70 * GIB, 8192, 1024), (0, 2048, 256))
CPU_STEP = (2048, 128)
BATCH = 8192  # tokens
STATE_BYTES = 4  # a recurrent layer's state is kept in float32 by some, so by all here

DTYPE_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "half": 2}
# Quantized while loading, layer by layer, so that the whole never lies there unquantized
# (model_executor/model_loader/reload/layerwise.py). Not int8_per_channel_weight_only: it leaves all
# but experts as they are (config/quantization.py).
EIGHT_BITS = frozenset({"fp8", "fp8_per_tensor", "fp8_per_block", "fp8_per_channel"})


def weight_bytes(card: ModelCard, dtype: str = "auto", quantization: str = "auto") -> int:
    """Bytes of the weights in memory: parameters × bytes of the format that the engine casts to.

    Weights that the files hold quantized stay so. With `auto`, vLLM casts float32 to 16 bits
    (config/model.py, `_resolve_auto_dtype`).
    """
    if card.quantization:
        return card.weight_bytes
    width = _dtype_bytes(card, dtype)
    if quantization not in EIGHT_BITS:
        return card.parameters * width if card.parameters else card.weight_bytes
    parameters = card.parameters or card.weight_bytes // width
    # Token embeddings and the last layer keep their format (the online fp8 methods of
    # model_executor/layers/quantization/online are for linear layers and experts).
    kept = min(card.shape.embedding_numbers if card.shape else 0, parameters)
    return kept * width + parameters - kept


def kv_width(dtype: str, kv_dtype: str) -> int:
    """Bytes of a number in the cache: those of the activations, unless somebody asked for 8 bits.

    Activations have 16 bits, unless somebody asked for 32.
    """
    return 1 if kv_dtype.startswith("fp8") else DTYPE_BYTES.get(dtype, 2)


def kv_bytes_per_token(shape: Shape, dtype_bytes: int = 2, split: int = 1) -> int:
    """KV cache of one token more, over `split` GPUs, once all windows are full."""
    return shape.full_layers * _layer_bytes(shape, dtype_bytes, split)


def kv_bytes(
    shape: Shape, tokens: int, dtype_bytes: int = 2, split: int = 1, in_flight: int = BATCH
) -> int:
    """KV cache and states of one request of so many tokens, over `split` GPUs.

    A layer with a sliding window also holds the tokens in flight (v1/kv_cache_interface.py,
    SlidingWindowSpec).
    """
    windowed = min(tokens, shape.window + in_flight)
    kept = shape.full_layers * tokens + shape.window_layers * windowed
    return kept * _layer_bytes(shape, dtype_bytes, split) + shape.state_numbers * STATE_BYTES


def longest(
    shape: Shape,
    room: int,
    limit: int,
    dtype_bytes: int = 2,
    split: int = 1,
    in_flight: int = BATCH,
) -> int:
    """The most tokens of one request, up to `limit`, whose KV cache there is room for."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        if kv_bytes(shape, middle, dtype_bytes, split, in_flight) <= room:
            low = middle
        else:
            high = middle - 1
    return low


def splits(shape: Shape | None, count: int) -> bool:
    """Whether tensor parallelism over `count` GPUs divides the heads, as vLLM's layers demand."""
    if count == 1:
        return True
    if shape is None or shape.heads % count:
        return False
    few, many = sorted((shape.kv_heads, count))
    return bool(shape.latent_dim) or many % few == 0


def usual_step(gpu_memory_bytes: int | None) -> tuple[int, int]:
    """Tokens and requests that one step computes at the most, where nobody has said how many.
    None: on a CPU."""
    if gpu_memory_bytes is None:
        return CPU_STEP
    return next((n, seqs) for least, n, seqs in STEPS if gpu_memory_bytes >= least)


def _layer_bytes(shape: Shape, dtype_bytes: int, split: int) -> int:
    """One token in one layer of attention, over `split` GPUs.

    Two (key and value) × KV heads × head size × bytes: Ainslie et al. 2023 (GQA,
    arXiv:2305.13245). KV heads are replicated where GPUs outnumber them (config/model.py,
    `get_num_kv_heads`). With latent attention one vector of kv_lora_rank + qk_rope_head_dim, on
    every GPU (DeepSeek-V2, arXiv:2405.04434, section 2.1).
    """
    if shape.latent_dim:
        return shape.latent_dim * dtype_bytes * split
    heads = max(1, shape.kv_heads // split) * split
    return 2 * heads * shape.head_dim * dtype_bytes


def _dtype_bytes(card: ModelCard, dtype: str) -> int:
    if dtype != "auto":
        return DTYPE_BYTES.get(dtype, 2)
    return 1 if card.dtype.startswith("float8") else 2
