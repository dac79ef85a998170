"""Whether a model fits, against published configurations.

Layers, heads and context as in each model's own config.json, read in November 2026 in the copies
that the comments name. Parameters follow from them by the arithmetic of `parameters`, which the
last digit of the hub's own counts bears out.
"""

import pytest

from inference.fit import (
    GIB,
    Hardware,
    Verdict,
    Wish,
    estimate,
    kv_bytes_per_token,
    splits,
    weight_bytes,
)
from inference.model_card import ModelCard
from inference.model_shape import Shape

# id: (parameters, context, layers, heads, kv heads, head size, latent)
PUBLISHED = {
    # mlc-ai/mlc-llm, python/mlc_llm/model/model_preset.py: llama3_1_8b, llama3_1_70b
    "meta-llama/Llama-3.1-8B-Instruct": (8_030_261_248, 131_072, 32, 32, 8, 128, 0),
    "meta-llama/Llama-3.1-70B-Instruct": (70_553_706_496, 131_072, 80, 64, 8, 128, 0),
    # Lightning-AI/litgpt, litgpt/config.py: Qwen2.5-7B, Qwen2.5-0.5B; the context as in mlc-llm's
    # qwen2_7b and qwen2_0_5b
    "Qwen/Qwen2.5-7B-Instruct": (7_615_616_512, 32_768, 28, 28, 4, 128, 0),
    "Qwen/Qwen2.5-0.5B-Instruct": (494_032_768, 32_768, 24, 14, 2, 64, 0),
    # mlc-llm, as above: qwen3_8b, mistral_7b_v03, gemma2_9b, phi-3, deepseek_v2_lite
    "Qwen/Qwen3-8B": (8_190_735_360, 40_960, 36, 32, 8, 128, 0),
    "mistralai/Mistral-7B-Instruct-v0.3": (7_248_023_552, 32_768, 32, 32, 8, 128, 0),
    "google/gemma-2-9b-it": (9_241_705_984, 8_192, 42, 16, 8, 256, 0),
    "microsoft/Phi-3-mini-4k-instruct": (3_821_079_552, 4_096, 32, 32, 32, 96, 0),
    "deepseek-ai/DeepSeek-V2-Lite-Chat": (15_706_484_224, 163_840, 27, 16, 16, 128, 576),
}


def parameters(
    layers: int, hidden: int, middle: int, heads: int, kv: int, dim: int, tables: int, more: int = 0
) -> int:
    """Of a dense model: attention, three matrices, two norms and `more` for each layer, the last
    norm, and `tables` numbers of embeddings."""
    attention = 2 * hidden * heads * dim + 2 * hidden * kv * dim
    return layers * (attention + 3 * hidden * middle + 2 * hidden + more) + hidden + tables


# hidden and intermediate size, vocabulary and tied embeddings, of the same sources
ARITHMETIC = {
    "meta-llama/Llama-3.1-8B-Instruct": parameters(32, 4096, 14336, 32, 8, 128, 2 * 128256 * 4096),
    "meta-llama/Llama-3.1-70B-Instruct": parameters(80, 8192, 28672, 64, 8, 128, 2 * 128256 * 8192),
    # with a bias for queries, keys and values
    "Qwen/Qwen2.5-7B-Instruct": parameters(
        28, 3584, 18944, 28, 4, 128, 2 * 152064 * 3584, (28 + 2 * 4) * 128
    ),
    "Qwen/Qwen2.5-0.5B-Instruct": parameters(
        24, 896, 4864, 14, 2, 64, 151936 * 896, (14 + 2 * 2) * 64
    ),
    # with norms for queries and keys
    "Qwen/Qwen3-8B": parameters(36, 4096, 12288, 32, 8, 128, 2 * 151936 * 4096, 2 * 128),
    "mistralai/Mistral-7B-Instruct-v0.3": parameters(32, 4096, 14336, 32, 8, 128, 2 * 32768 * 4096),
    # with four norms
    "google/gemma-2-9b-it": parameters(42, 3584, 14336, 16, 8, 256, 256000 * 3584, 2 * 3584),
    "microsoft/Phi-3-mini-4k-instruct": parameters(32, 3072, 8192, 32, 32, 96, 2 * 32064 * 3072),
}


@pytest.mark.parametrize("model_id", ARITHMETIC)
def test_parameters_follow_from_the_configuration(model_id: str) -> None:
    assert PUBLISHED[model_id][0] == ARITHMETIC[model_id]


def card(model_id: str, **changes: object) -> ModelCard:
    parameters, context, layers, heads, kv_heads, head_dim, latent = PUBLISHED[model_id]
    fields = {
        "source": "hub",
        "model_id": model_id,
        "parameters": parameters,
        "weight_bytes": parameters * 2,
        "dtype": "bfloat16",
        "context_length": context,
        "shape": Shape(
            layers=layers, heads=heads, kv_heads=kv_heads, head_dim=head_dim, latent_dim=latent
        ),
    }
    return ModelCard(**(fields | changes))


def gpus(count: int, gib: int) -> Hardware:
    return Hardware(memory_bytes=256 * GIB, gpu_memory_bytes=(gib * GIB,) * count)


@pytest.mark.parametrize(
    ("model_id", "expected"),
    [
        # 2 × layers × KV heads × head size × 2 bytes, worked out by hand from the table above.
        ("meta-llama/Llama-3.1-8B-Instruct", 131_072),  # the well-known 128 KiB per token
        ("meta-llama/Llama-3.1-70B-Instruct", 327_680),  # 320 KiB
        ("Qwen/Qwen2.5-7B-Instruct", 57_344),  # 56 KiB
        ("Qwen/Qwen2.5-0.5B-Instruct", 12_288),
        ("Qwen/Qwen3-8B", 147_456),
        ("mistralai/Mistral-7B-Instruct-v0.3", 131_072),
        ("google/gemma-2-9b-it", 344_064),
        ("microsoft/Phi-3-mini-4k-instruct", 393_216),  # no GQA: three times Llama's
        ("deepseek-ai/DeepSeek-V2-Lite-Chat", 31_104),  # 27 × (512 + 64) × 2, latent attention
    ],
)
def test_a_token_of_context_takes_what_the_architecture_says(model_id: str, expected: int) -> None:
    assert kv_bytes_per_token(card(model_id).shape) == expected


@pytest.mark.parametrize(
    ("model_id", "dtype", "expected"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", "auto", 16_060_522_496),
        ("meta-llama/Llama-3.1-8B-Instruct", "float32", 32_121_044_992),
        ("meta-llama/Llama-3.1-70B-Instruct", "auto", 141_107_412_992),
    ],
)
def test_weights_are_parameters_times_their_format(
    model_id: str, dtype: str, expected: int
) -> None:
    assert weight_bytes(card(model_id), dtype) == expected


def test_float32_files_are_cast_to_16_bits() -> None:
    stored = card("Qwen/Qwen3-8B", dtype="float32", weight_bytes=4 * 8_190_735_360)
    assert weight_bytes(stored) == 2 * 8_190_735_360


def test_quantized_weights_count_as_the_files_hold_them() -> None:
    # int32 words of 8 weights each; no setting quantizes them a second time
    quantized = card("Qwen/Qwen2.5-7B-Instruct", quantization="awq", weight_bytes=5_000_000_000)
    assert weight_bytes(quantized) == 5_000_000_000
    assert weight_bytes(quantized, quantization="fp8") == 5_000_000_000


@pytest.mark.parametrize(
    ("model_id", "count", "gib", "verdict", "gpu_count"),
    [
        # 15 GiB of weights, 16 GiB of KV cache for 131,072 tokens
        ("meta-llama/Llama-3.1-8B-Instruct", 1, 24, Verdict.SHORTER, 1),
        ("meta-llama/Llama-3.1-8B-Instruct", 2, 24, Verdict.FITS, 2),
        ("meta-llama/Llama-3.1-8B-Instruct", 1, 80, Verdict.FITS, 1),
        ("meta-llama/Llama-3.1-8B-Instruct", 1, 16, Verdict.TOO_BIG, 1),
        # 131 GiB of weights: not on one H100, nor at full context on two
        ("meta-llama/Llama-3.1-70B-Instruct", 1, 80, Verdict.TOO_BIG, 1),
        ("meta-llama/Llama-3.1-70B-Instruct", 2, 80, Verdict.SHORTER, 2),
        ("meta-llama/Llama-3.1-70B-Instruct", 4, 80, Verdict.FITS, 4),
        ("Qwen/Qwen2.5-7B-Instruct", 1, 24, Verdict.FITS, 1),
        ("google/gemma-2-9b-it", 1, 24, Verdict.SHORTER, 1),
    ],
)
def test_gpus(model_id: str, count: int, gib: int, verdict: Verdict, gpu_count: int) -> None:
    fit = estimate(card(model_id), gpus(count, gib))
    assert (fit.verdict, fit.gpu_count) == (verdict, gpu_count)


def test_a_shorter_context_makes_room_and_the_answer_says_how_long() -> None:
    llama = card("meta-llama/Llama-3.1-8B-Instruct")
    shorter = estimate(llama, gpus(1, 24))
    assert shorter.max_context is not None
    assert 0 < shorter.max_context < 131_072
    assert estimate(llama, gpus(1, 24), Wish(context=shorter.max_context)).verdict is Verdict.FITS
    longer = Wish(context=shorter.max_context + 1)
    assert estimate(llama, gpus(1, 24), longer).verdict is Verdict.SHORTER


def test_full_requests_at_a_time_follow_from_what_weights_leave() -> None:
    fit = estimate(card("Qwen/Qwen2.5-7B-Instruct"), gpus(1, 80))
    left = int(80 * GIB * 0.9) - 15_231_233_024 - 2 * GIB
    assert fit.sequences == left // 57_344 // 32_768 == 31


def test_a_gpu_count_that_does_not_divide_the_heads_is_not_used() -> None:
    # 28 heads, 4 KV heads: 2 and 4 divide both; 3, 5, 6 do not, and 7 divides only the heads
    shape = card("Qwen/Qwen2.5-7B-Instruct").shape
    assert [n for n in range(1, 9) if splits(shape, n)] == [1, 2, 4]


def test_kv_heads_are_repeated_where_gpus_outnumber_them() -> None:
    shape = card("meta-llama/Llama-3.1-70B-Instruct").shape
    assert splits(shape, 16)
    assert kv_bytes_per_token(shape, split=16) == 2 * kv_bytes_per_token(shape, split=8)


def test_the_smallest_gpu_sets_the_measure() -> None:
    mixed = Hardware(memory_bytes=64 * GIB, gpu_memory_bytes=(80 * GIB, 24 * GIB))
    fit = estimate(card("meta-llama/Llama-3.1-70B-Instruct"), mixed)
    assert fit.verdict is Verdict.TOO_BIG
    assert fit.available_bytes == int(24 * GIB * 0.9) * 2


def test_on_a_cpu_the_context_must_fit_the_space_set_aside_for_it() -> None:
    qwen = card("Qwen/Qwen2.5-0.5B-Instruct")
    machine = Hardware(memory_bytes=24 * GIB)
    assert estimate(qwen, machine).verdict is Verdict.FITS  # 32,768 × 12 KiB = 384 MiB of 1 GiB
    assert estimate(qwen, machine).sequences == 2
    llama = estimate(card("meta-llama/Llama-3.1-8B-Instruct"), machine)
    assert (llama.verdict, llama.max_context) == (Verdict.SHORTER, 8_192)  # 1 GiB of 128 KiB each
    roomy = Hardware(memory_bytes=64 * GIB)
    with_room = Wish(kv_space_bytes=16 * GIB)
    fit = estimate(card("meta-llama/Llama-3.1-8B-Instruct"), roomy, with_room)
    assert fit.verdict is Verdict.FITS


def test_on_a_cpu_weights_cache_and_engine_must_fit_in_memory() -> None:
    fit = estimate(card("Qwen/Qwen3-8B"), Hardware(memory_bytes=16 * GIB))
    assert fit.verdict is Verdict.TOO_BIG
    assert fit.needed_bytes == 2 * 8_190_735_360 + 3 * GIB + 1 * GIB
    assert not fit.runs


def test_llama_cpp_is_small_and_computes_few_requests_at_a_time() -> None:
    gguf = card("Qwen/Qwen2.5-0.5B-Instruct", model_file="tiny-Q8_0.gguf")
    machine = Hardware(memory_bytes=64 * GIB)
    assert estimate(gguf, machine).overhead_bytes == GIB // 2
    wishes = (Wish(), Wish(context=4096), Wish(context=4096, at_a_time=8))
    assert [estimate(gguf, machine, wish).sequences for wish in wishes] == [1, 4, 8]


def test_a_model_that_says_only_its_size_is_judged_by_its_weights() -> None:
    bare = card("Qwen/Qwen3-8B", shape=None)
    fit = estimate(bare, gpus(1, 24))
    assert (fit.verdict, fit.sequences, fit.kv_bytes_per_token) == (Verdict.FITS, None, None)
    assert estimate(bare, gpus(1, 16)).verdict is Verdict.TOO_BIG


def test_a_model_without_weights_is_unknown() -> None:
    nothing = ModelCard(source="hub", model_id="a/b")
    assert estimate(nothing, gpus(1, 80)).verdict is Verdict.UNKNOWN
