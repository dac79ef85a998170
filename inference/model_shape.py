"""What of a config.json decides the memory of a conversation. PURE.

Layers differ: most keep every token, some only a window of the last ones, and some (Mamba, linear
attention, short convolutions) a state of fixed size. What cannot be told apart counts as keeping
every token, which is the safe side.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from inference.gguf import Header

# Layers that keep the last tokens only, by transformers' `layer_types`.
_WINDOWED = frozenset({"sliding_attention", "chunked_attention"})
# Layers whose state does not grow.
_RECURRENT = frozenset({"linear_attention", "mamba", "mamba2", "conv", "recurrent"})
# Every n-th layer sees all, the others a window: configs that leave `layer_types` to the code.
# transformers: Gemma2Config, Gemma3TextConfig, Cohere2Config, GptOssConfig.
_ALTERNATING = {"gemma2": 2, "gemma3": 6, "gemma3_text": 6, "cohere2": 4, "gpt_oss": 2}
_MOST_LAYERS = 4096  # more is a joke at our expense


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers that decide how much memory a token of context takes."""

    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    # Multi-head latent attention (DeepSeek): numbers kept per token and layer; 0 without it.
    latent_dim: int = 0
    # Of the layers: those that keep the last `window` tokens, and those that keep none.
    window_layers: int = 0
    window: int = 0
    state_layers: int = 0
    state_numbers: int = 0  # numbers that one request keeps in fixed-size states, all layers
    embedding_numbers: int = 0  # of the weights, those that turn tokens into numbers and back

    @property
    def full_layers(self) -> int:
        return max(0, self.layers - self.window_layers - self.state_layers)


def read_shape(text: Mapping[str, Any]) -> Shape | None:
    """Layers and heads. The names are transformers', GPT-2's `n_*` among them."""
    layers = whole(text, "num_hidden_layers", "n_layer", "n_layers", "num_layers")
    heads = whole(text, "num_attention_heads", "n_head", "n_heads")
    hidden = whole(text, "hidden_size", "n_embd", "d_model")
    head_dim = whole(text, "head_dim", "attention_head_dim")
    head_dim = head_dim or (hidden // heads if hidden and heads else None)
    if not layers or not heads or not head_dim:
        return None
    latent = whole(text, "kv_lora_rank")
    kinds = _kinds(text, layers)
    window = whole(text, "sliding_window", "attention_chunk_size") or 0
    recurrent = sum(kind in _RECURRENT for kind in kinds)
    # Falcon-H1: attention and Mamba side by side in every layer.
    stateful = layers if text.get("model_type") == "falcon_h1" else recurrent
    return Shape(
        layers=layers,
        heads=heads,
        kv_heads=whole(text, "num_key_value_heads", "num_kv_heads") or heads,
        head_dim=head_dim,
        latent_dim=latent + (whole(text, "qk_rope_head_dim") or 0) if latent else 0,
        window_layers=sum(kind in _WINDOWED for kind in kinds) if window else 0,
        window=window if any(kind in _WINDOWED for kind in kinds) else 0,
        state_layers=sum(kind in _RECURRENT or kind == "none" for kind in kinds),
        state_numbers=stateful * _state(text, hidden or 0),
        embedding_numbers=_embeddings(text, hidden or 0),
    )


def gguf_shape(architecture: str, header: Header) -> Shape | None:
    """As `read_shape`, by the names of GGUF. Windows are not told per layer: all count in full."""

    def said(name: str) -> int | None:
        return header.number(f"{architecture}.{name}")

    layers, heads = said("block_count"), said("attention.head_count")
    hidden = said("embedding_length")
    head_dim = said("attention.key_length") or (hidden // heads if hidden and heads else None)
    if not layers or not heads or not head_dim:
        return None
    latent = said("attention.kv_lora_rank")
    return Shape(
        layers=layers,
        heads=heads,
        kv_heads=said("attention.head_count_kv") or heads,
        head_dim=head_dim,
        latent_dim=latent + (said("rope.dimension_count") or 0) if latent else 0,
    )


def whole(values: Mapping[str, Any], *names: str) -> int | None:
    """The first of these that is a positive whole number of a credible size."""
    for name in names:
        value = values.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**40:
            return value
    return None


def _embeddings(text: Mapping[str, Any], hidden: int) -> int:
    """One table of vocabulary × hidden numbers where the last layer is the first one's mirror, else
    two; two as well where nobody says, which is the safe side."""
    tables = 1 if text.get("tie_word_embeddings") is True else 2
    return tables * (whole(text, "vocab_size") or 0) * hidden


def _kinds(text: Mapping[str, Any], layers: int) -> list[str]:
    """The kind of each layer, as far as the config tells; empty: all keep every token."""
    if layers > _MOST_LAYERS:
        return []
    kinds = text.get("layer_types") or text.get("layers_block_type")
    if isinstance(kinds, list) and len(kinds) == layers:
        return [kind if isinstance(kind, str) else "" for kind in kinds]
    # Nemotron-H: M is Mamba, * attention, - a feed-forward layer, E experts.
    pattern = text.get("hybrid_override_pattern")
    if isinstance(pattern, str) and len(pattern) == layers:
        return [{"M": "mamba", "*": "attention"}.get(mark, "none") for mark in pattern]
    # Qwen3-Next: the last of every n.
    if every := whole(text, "full_attention_interval"):
        return ["linear_attention" if (i + 1) % every else "attention" for i in range(layers)]
    # Jamba: the layers at an offset within each period.
    if period := whole(text, "attn_layer_period"):
        offset = (whole(text, "attn_layer_offset") or 0) % period
        return ["attention" if i % period == offset else "mamba" for i in range(layers)]
    return _alternating(text, layers)


def _alternating(text: Mapping[str, Any], layers: int) -> list[str]:
    model_type = text.get("model_type")
    usual = _ALTERNATING.get(model_type) if isinstance(model_type, str) else None
    if not usual or text.get("use_sliding_window") is False:
        return []
    every = whole(text, "sliding_window_pattern", "_sliding_window_pattern") or usual
    return ["sliding_attention" if (i + 1) % every else "attention" for i in range(layers)]


def _state(text: Mapping[str, Any], hidden: int) -> int:
    """Numbers in the state of one recurrent layer: the convolution's past, and the state itself.

    As vLLM lays them out: `MambaStateShapeCalculator` (model_executor/layers/mamba/mamba_utils.py).
    """
    if value_heads := whole(text, "linear_num_value_heads"):  # gated delta net
        key = whole(text, "linear_key_head_dim") or 0
        value = value_heads * (whole(text, "linear_value_head_dim") or 0)
        keys = (whole(text, "linear_num_key_heads") or 0) * key
        past = (whole(text, "linear_conv_kernel_dim") or 1) - 1
        return past * (2 * keys + value) + value * key
    state = whole(text, "ssm_state_size", "mamba_d_state", "mamba_state_dim") or 0
    past = (whole(text, "conv_kernel", "mamba_d_conv", "conv_L_cache") or 1) - 1
    if heads := whole(text, "mamba_num_heads", "mamba_n_heads"):  # Mamba 2
        inner = heads * (whole(text, "mamba_head_dim", "mamba_d_head") or 0)
        groups = whole(text, "n_groups", "mamba_n_groups", "mamba_num_groups") or 1
        return past * (inner + 2 * groups * state) + inner * state
    inner = hidden * (whole(text, "mamba_expand", "expand") or 1)  # Mamba 1
    return past * inner + inner * state
