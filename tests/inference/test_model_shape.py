"""What a token takes in well-known models, from the figures of each model's own config.json.

The repository is named in each row. Expected: bytes of KV cache per token in the layers that keep
every token, with 16 bits, and the numbers of layers of each kind, worked out by hand.
"""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.fit import GIB, Hardware, estimate, kv_bytes, kv_bytes_per_token
from inference.fit.correction import Correction, Start, learn
from inference.fit.price import decode_speed, per_million_tokens
from inference.measured import Measured
from inference.model_card import ModelCard
from inference.model_shape import Shape, read_shape


def config(layers: int, heads: int, kv: int, dim: int, **more: Any) -> dict[str, Any]:
    return {
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "head_dim": dim,
    } | more


LATENT = {"kv_lora_rank": 512, "qk_rope_head_dim": 64}
ALTERNATE = ["sliding_attention", "full_attention"]
DELTA = {
    "full_attention_interval": 4,
    "linear_num_value_heads": 32,
    "linear_num_key_heads": 16,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_conv_kernel_dim": 4,
}
JAMBA = {"model_type": "jamba", "hidden_size": 4096, "attn_layer_period": 8, "attn_layer_offset": 4}
JAMBA |= {"mamba_d_conv": 4, "mamba_d_state": 16, "mamba_expand": 2}
NEMOTRON = "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME"


@pytest.mark.parametrize(
    ("repository", "said", "per_token", "full", "windowed", "stateful"),
    [
        ("meta-llama/Llama-3.1-8B", config(32, 32, 8, 128), 131_072, 32, 0, 0),
        ("meta-llama/Llama-3.1-70B", config(80, 64, 8, 128), 327_680, 80, 0, 0),
        ("Qwen/Qwen3-8B", config(36, 32, 8, 128, use_sliding_window=False), 147_456, 36, 0, 0),
        ("Qwen/Qwen3-32B", config(64, 64, 8, 128), 262_144, 64, 0, 0),
        ("Qwen/Qwen3-30B-A3B", config(48, 32, 4, 128), 98_304, 48, 0, 0),
        (
            "mistralai/Mistral-7B-v0.3",
            config(32, 32, 8, 128, sliding_window=None),
            131_072,
            32,
            0,
            0,
        ),
        ("mistralai/Mixtral-8x7B-v0.1", config(32, 32, 8, 128), 131_072, 32, 0, 0),
        ("microsoft/phi-4", config(40, 40, 10, 128), 204_800, 40, 0, 0),
        # 21 of 42 layers × 2 × 8 × 256 × 2
        (
            "google/gemma-2-9b",
            config(42, 16, 8, 256, model_type="gemma2", sliding_window=4096),
            172_032,
            21,
            21,
            0,
        ),
        # layers 6, 12, 18, 24, 30 of 34 see all: 5 × 2 × 4 × 256 × 2
        (
            "google/gemma-3-4b-it",
            config(34, 8, 4, 256, model_type="gemma3_text", sliding_window=1024),
            20_480,
            5,
            29,
            0,
        ),
        # 61 × (512 + 64) × 2: the 70 KB per token of DeepSeek's own report
        ("deepseek-ai/DeepSeek-V3", config(61, 128, 128, 56, **LATENT), 70_272, 61, 0, 0),
        ("moonshotai/Kimi-K2-Instruct", config(61, 64, 64, 112, **LATENT), 70_272, 61, 0, 0),
        (
            "openai/gpt-oss-20b",
            config(24, 64, 8, 64, sliding_window=128, layer_types=ALTERNATE * 12),
            24_576,
            12,
            12,
            0,
        ),
        (
            "openai/gpt-oss-120b",
            config(36, 64, 8, 64, sliding_window=128, layer_types=ALTERNATE * 18),
            36_864,
            18,
            18,
            0,
        ),
        ("zai-org/GLM-4.5-Air", config(46, 96, 8, 128), 188_416, 46, 0, 0),
        ("Qwen/Qwen3-Next-80B-A3B-Instruct", config(48, 16, 2, 256, **DELTA), 24_576, 12, 0, 36),
        ("ai21labs/Jamba-v0.1", config(32, 32, 8, 128, **JAMBA), 16_384, 4, 0, 28),
        # 6 layers of attention × 2 × 2 × 128 × 2
        (
            "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16",
            config(52, 32, 2, 128, hybrid_override_pattern=NEMOTRON),
            6_144,
            6,
            0,
            46,
        ),
    ],
)
def test_a_token_takes_what_the_kinds_of_layers_keep(
    repository: str, said: dict[str, Any], per_token: int, full: int, windowed: int, stateful: int
) -> None:
    shape = read_shape(said)
    assert shape is not None, repository
    kinds = (shape.full_layers, shape.window_layers, shape.state_layers)
    assert (kv_bytes_per_token(shape), *kinds) == (per_token, full, windowed, stateful)
    assert kv_bytes_per_token(shape, 1) == per_token // 2  # 8 bits


def test_states_are_counted_once_for_each_request() -> None:
    jamba = read_shape(config(32, 32, 8, 128, **JAMBA))
    qwen = read_shape(config(48, 16, 2, 256, **DELTA))
    assert jamba is not None
    assert qwen is not None
    # per layer: 3 × 8192 of the convolution, 8192 × 16 of the state
    assert jamba.state_numbers == 28 * (3 * 8192 + 8192 * 16)
    # per layer: 3 × (2 × 16 × 128 + 32 × 128), and 32 × 128 × 128
    assert qwen.state_numbers == 36 * (3 * 8192 + 32 * 128 * 128)
    assert kv_bytes(jamba, 0) == 4 * jamba.state_numbers


def test_a_window_stops_growing() -> None:
    gemma = read_shape(config(34, 8, 4, 256, model_type="gemma3_text", sliding_window=1024))
    assert gemma is not None
    assert kv_bytes(gemma, 100_001) - kv_bytes(gemma, 100_000) == 20_480
    assert kv_bytes(gemma, 101) - kv_bytes(gemma, 100) == 34 * 4096


values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**70) | st.text("M*-Ex", max_size=9) | st.floats(),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=6,
)
KEYS = sorted({*config(1, 1, 1, 1), *DELTA, *JAMBA, *LATENT, "layer_types", "sliding_window"})


@given(st.dictionaries(st.sampled_from([*KEYS, "hybrid_override_pattern"]), values))
def test_strange_configs_are_read_or_left(said: dict[str, Any]) -> None:
    shape = read_shape(config(4, 4, 2, 8) | said)
    if shape is not None:
        card = ModelCard(source="hub", model_id="a/b", weight_bytes=GIB, shape=shape)
        estimate(card, Hardware(memory_bytes=GIB, gpu_memory_bytes=(24 * GIB,) * 2), 4096)


@given(
    context=st.integers(512, 200_000),
    more=st.integers(1, 200_000),
    window=st.integers(0, 64),
    gib=st.integers(8, 200),
)
def test_more_context_never_fits_better_and_more_gpus_never_worse(
    context: int, more: int, window: int, gib: int
) -> None:
    shape = Shape(layers=64, heads=64, kv_heads=8, head_dim=128, window_layers=window, window=1024)
    card = ModelCard(source="hub", model_id="a/b", weight_bytes=14 * GIB, shape=shape)

    def room(tokens: int, count: int) -> int:
        machine = Hardware(memory_bytes=GIB, gpu_memory_bytes=(gib * GIB,) * count)
        return estimate(card, machine, tokens).max_context or 0

    short, long = room(context, 1), room(context + more, 1)
    assert (short == context) >= (long == context + more)
    assert room(context, 2) >= short


def start(weights: int, kv: int | None) -> Start:
    said = Measured(weight_bytes=weights * GIB, kv_cache_bytes=kv and kv * GIB)
    return Start(
        available_bytes=72 * GIB, weight_bytes=15 * GIB, overhead_bytes=2 * GIB, measured=said
    )


def test_past_starts_correct_the_overhead_by_their_median() -> None:
    # 72 - 15 - 54 = 3, 72 - 15 - 53 = 4 and 72 - 15 - 52 = 5, each of 2 that were estimated
    learnt = learn([start(15, 54), start(15, 52), start(15, 53), start(15, 1)])
    assert learnt == Correction(overhead=2.0, weights=1.0, starts=4)
    assert learnt.overhead_bytes(2 * GIB) == 4 * GIB


def test_without_figures_nothing_is_learnt() -> None:
    assert learn([]) == Correction()
    assert learn([start(15, None)]).overhead == 1.0


def test_a_million_tokens_cost_the_hours_that_they_take() -> None:
    assert per_million_tokens(Decimal("3.60"), 1000) == Decimal(1)
    assert per_million_tokens(Decimal(1), 0) is None


def test_each_step_reads_the_weights_once_for_all_users() -> None:
    assert decode_speed(10, 0, 1000.0) == 100
    assert decode_speed(10, 10, 1000.0, users=9) == 90
