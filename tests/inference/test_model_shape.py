"""What a token takes in well-known models, from the figures of each model's own config.json.

The repository is named in each row, and above it the public copy in which the figures were read in
November 2026 (project, file, entry); what nobody could be found to publish is left out. Expected:
bytes of KV cache per token in the layers that keep every token, with 16 bits, and the numbers of
layers of each kind, worked out by hand.
"""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.fit import GIB, Hardware, Wish, estimate, kv_bytes, kv_bytes_per_token
from inference.model_card import ModelCard
from inference.model_shape import read_shape


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
        # mlc-ai/mlc-llm, python/mlc_llm/model/model_preset.py: llama3_1_8b, llama3_1_70b, qwen3_8b
        ("meta-llama/Llama-3.1-8B", config(32, 32, 8, 128), 131_072, 32, 0, 0),
        ("meta-llama/Llama-3.1-70B", config(80, 64, 8, 128), 327_680, 80, 0, 0),
        ("Qwen/Qwen3-8B", config(36, 32, 8, 128, use_sliding_window=False), 147_456, 36, 0, 0),
        # Lightning-AI/litgpt, litgpt/config.py: Qwen3-32B
        ("Qwen/Qwen3-32B", config(64, 64, 8, 128), 262_144, 64, 0, 0),
        # mlc-llm, as above: mistral_7b_v03, Mixtral-8x7B-v0.1
        (
            "mistralai/Mistral-7B-v0.3",
            config(32, 32, 8, 128, sliding_window=None),
            131_072,
            32,
            0,
            0,
        ),
        ("mistralai/Mixtral-8x7B-v0.1", config(32, 32, 8, 128), 131_072, 32, 0, 0),
        # litgpt, as above: phi-4
        ("microsoft/phi-4", config(40, 40, 10, 128), 204_800, 40, 0, 0),
        # mlc-llm, as above: gemma2_9b; every second layer sees all: huggingface/transformers,
        # src/transformers/models/gemma2/configuration_gemma2.py. 21 of 42 layers × 2 × 8 × 256 × 2
        (
            "google/gemma-2-9b",
            config(42, 16, 8, 256, model_type="gemma2", sliding_window=4096),
            172_032,
            21,
            21,
            0,
        ),
        # transformers, models/gemma3/convert_gemma3_weights_orbax_to_hf.py: gemma3_4b; every sixth
        # layer: configuration_gemma3.py. 6, 12, 18, 24, 30 of 34 see all: 5 × 2 × 4 × 256 × 2
        (
            "google/gemma-3-4b-it",
            config(34, 8, 4, 256, model_type="gemma3_text", sliding_window=1024),
            20_480,
            5,
            29,
            0,
        ),
        # transformers, models/deepseek_v3/configuration_deepseek_v3.py, whose defaults are
        # DeepSeek-V3. 61 × (512 + 64) × 2
        ("deepseek-ai/DeepSeek-V3", config(61, 128, 128, 56, **LATENT), 70_272, 61, 0, 0),
        # ai-dynamo/aiconfigurator, src/aiconfigurator/model_configs:
        # moonshotai--Kimi-K2-Instruct_config.json; 112 is hidden 7168 / 64 heads
        ("moonshotai/Kimi-K2-Instruct", config(61, 64, 64, 112, **LATENT), 70_272, 61, 0, 0),
        # openai/gpt-oss, gpt_oss/jax/config.py; which layers have a window: transformers,
        # models/gpt_oss/configuration_gpt_oss.py
        (
            "openai/gpt-oss-120b",
            config(36, 64, 8, 64, sliding_window=128, layer_types=ALTERNATE * 18),
            36_864,
            18,
            18,
            0,
        ),
        # transformers, models/glm4_moe/convert_glm4_moe_weights_to_hf.py: CONFIG_100B, which is the
        # Air; CONFIG_360B is the large one
        ("zai-org/GLM-4.5-Air", config(46, 96, 8, 128), 188_416, 46, 0, 0),
        ("zai-org/GLM-4.5", config(92, 96, 8, 128), 376_832, 92, 0, 0),
        # aiconfigurator, as above: Qwen--Qwen3-Next-80B-A3B-Thinking_config.json
        ("Qwen/Qwen3-Next-80B-A3B-Thinking", config(48, 16, 2, 256, **DELTA), 24_576, 12, 0, 36),
        # transformers, models/jamba/configuration_jamba.py, whose defaults are Jamba-v0.1
        ("ai21labs/Jamba-v0.1", config(32, 32, 8, 128, **JAMBA), 16_384, 4, 0, 28),
        # NVIDIA-NeMo/Megatron-Bridge, src/megatron/bridge/models/nemotronh/nemotron_h_provider.py:
        # Nemotron3NanoProvider. 6 layers of attention × 2 × 2 × 128 × 2
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
KEYS = sorted(
    {*config(1, 1, 1, 1), *DELTA, *JAMBA, *LATENT, "layer_types", "sliding_window", "vocab_size"}
)


@given(st.dictionaries(st.sampled_from([*KEYS, "hybrid_override_pattern"]), values))
def test_strange_configs_are_read_or_left(said: dict[str, Any]) -> None:
    shape = read_shape(config(4, 4, 2, 8) | said)
    if shape is not None:
        card = ModelCard(source="hub", model_id="a/b", weight_bytes=GIB, shape=shape)
        machine = Hardware(memory_bytes=GIB, gpu_memory_bytes=(24 * GIB,) * 2)
        estimate(card, machine, Wish(context=4096, quantization="fp8"))
