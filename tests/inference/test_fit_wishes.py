"""What settings do to an estimate: properties over many models, machines and wishes."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from inference.fit import (
    GIB,
    GPU_OVERHEAD,
    Fit,
    Hardware,
    Verdict,
    Wish,
    estimate,
    kv_bytes,
    weight_bytes,
)
from inference.fit.alternatives import Alternatives, alternatives
from inference.fit.correction import Correction
from inference.model_card import ModelCard
from inference.model_shape import Shape
from tests.inference.test_fit import card, gpus

LLAMA = card("meta-llama/Llama-3.1-8B-Instruct")
LARGE = card("meta-llama/Llama-3.1-70B-Instruct")

shapes = st.builds(
    Shape,
    layers=st.just(64),
    heads=st.just(64),
    kv_heads=st.sampled_from([1, 2, 4, 8, 64]),
    head_dim=st.sampled_from([64, 128]),
    latent_dim=st.sampled_from([0, 576]),
    window_layers=st.integers(0, 60),
    window=st.just(1024),
    state_layers=st.integers(0, 4),
    state_numbers=st.integers(0, 10**6),
    embedding_numbers=st.integers(0, 10**9),
)
cards = st.builds(
    lambda shape, billions: ModelCard(
        source="hub",
        model_id="a/b",
        parameters=billions * 10**9,
        dtype="bfloat16",
        context_length=131_072,
        shape=shape,
    ),
    shapes,
    st.integers(1, 120),
)
corrections = st.builds(
    Correction, st.floats(0.25, 4), st.floats(0.25, 4), st.floats(0.25, 4), st.integers(0, 9)
)
machines = st.builds(gpus, st.sampled_from([1, 2, 4, 8]), st.integers(8, 200))


def users(fit: Fit) -> dict[int, int]:
    return {users.context: users.count for users in fit.users}


@given(cards, machines, corrections, st.integers(512, 200_000), st.integers(1, 200_000))
def test_more_context_never_means_more_users(
    model: ModelCard, machine: Hardware, correction: Correction, context: int, more: int
) -> None:
    count = len(machine.gpu_memory_bytes)
    short, long = (
        estimate(model, machine, Wish(context=tokens, gpu_count=count), correction)
        for tokens in (context, context + more)
    )
    assert (short.sequences or 0) >= (long.sequences or 0)
    assert (short.verdict is Verdict.FITS) >= (long.verdict is Verdict.FITS)
    counts = list(users(long).values())
    assert counts == sorted(counts, reverse=True)


@given(cards, st.integers(8, 200), corrections, st.sampled_from([1, 2, 4]))
def test_twice_the_gpus_never_fit_worse(
    model: ModelCard, gib: int, correction: Correction, count: int
) -> None:
    few, many = (
        estimate(model, gpus(n, gib), Wish(gpu_count=n), correction) for n in (count, 2 * count)
    )
    assert (many.max_context or 0) >= (few.max_context or 0)
    assert (many.sequences or 0) >= (few.sequences or 0)


@given(cards, machines, corrections)
def test_fewer_bits_never_fit_worse(
    model: ModelCard, machine: Hardware, correction: Correction
) -> None:
    wish = Wish(gpu_count=len(machine.gpu_memory_bytes))
    plain = estimate(model, machine, wish, correction)
    for change in ({"kv_dtype": "fp8"}, {"quantization": "fp8"}):
        smaller = estimate(model, machine, replace(wish, **change), correction)
        assert (smaller.sequences or 0) >= (plain.sequences or 0)
        assert (smaller.verdict is Verdict.TOO_BIG) <= (plain.verdict is Verdict.TOO_BIG)


@given(cards, machines, corrections, st.floats(0.1, 0.98))
def test_the_parts_of_the_memory_are_all_of_it(
    model: ModelCard, machine: Hardware, correction: Correction, share: float
) -> None:
    fit = estimate(model, machine, Wish(gpu_share=share), correction)
    if fit.runs:
        parts = fit.weight_bytes + fit.overhead_bytes + fit.kv_room_bytes + fit.spare_bytes
        assert parts == fit.memory_bytes
        assert fit.needed_bytes - (fit.request_bytes or 0) <= fit.available_bytes


values = st.none() | st.booleans() | st.integers() | st.floats() | st.text("fp8auto", max_size=9)
NAMES = [
    *("max_model_len", "dtype", "quantization", "kv_cache_dtype", "kv_cache_gib", "runner"),
    *("tensor_parallel", "pipeline_parallel", "data_parallel", "max_num_seqs"),
    *("gpu_memory_utilization", "max_num_batched_tokens"),
]


@given(st.dictionaries(st.sampled_from(NAMES), values), st.none() | st.integers(0, 64))
def test_strange_settings_are_passed_over(settings: dict[str, Any], count: int | None) -> None:
    wish = Wish.of(settings, count)
    estimate(LLAMA, gpus(4, 80), wish)
    assert 0 < wish.gpu_share <= 1


def test_settings_are_read_by_their_names() -> None:
    settings: dict[str, object] = {
        "max_model_len": 8192,
        "dtype": "float16",
        "quantization": "fp8",
        "kv_cache_dtype": "fp8_e5m2",
        "gpu_memory_utilization": 0.8,
        "tensor_parallel": 2,
        "pipeline_parallel": 2,
        "data_parallel": 2,
        "max_num_seqs": 16,
        "max_num_batched_tokens": 2048,
    }
    assert Wish.of(settings, 8) == Wish(
        context=8192,
        dtype="float16",
        quantization="fp8",
        kv_dtype="fp8_e5m2",
        gpu_share=0.8,
        gpu_count=8,
        tensor=2,
        pipeline=2,
        copies=2,
        at_a_time=16,
        batch=2048,
    )
    assert Wish.of({"kv_cache_gib": 4}).kv_space_bytes == 4 * GIB


def test_embeddings_on_a_cpu_take_32_bits() -> None:
    assert Wish.of({"runner": "pooling"}, 0).dtype == "float32"
    assert Wish.of({"runner": "pooling"}, 1).dtype == "auto"


def test_weights_at_8_bits_leave_embeddings_as_they_are() -> None:
    tables = 2 * 128_256 * 4096
    shape = replace(LLAMA.shape, embedding_numbers=tables)  # type: ignore[type-var]
    model = replace(LLAMA, shape=shape)
    assert weight_bytes(model, quantization="fp8") == 8_030_261_248 + tables
    # of these, vLLM 0.32 quantizes experts only
    assert weight_bytes(model, quantization="int8_per_channel_weight_only") == 2 * 8_030_261_248


def test_a_cache_at_8_bits_holds_twice_as_much() -> None:
    plain, fp8 = (
        estimate(LLAMA, gpus(1, 80), Wish(kv_dtype=kind)) for kind in ("auto", "fp8_e4m3")
    )
    assert fp8.kv_bytes_per_token == 65_536
    assert users(fp8)[8192] in {2 * users(plain)[8192], 2 * users(plain)[8192] + 1}


def test_groups_of_layers_need_not_divide_the_heads() -> None:
    qwen = card("Qwen/Qwen2.5-7B-Instruct")  # 28 heads, 4 KV heads
    assert estimate(qwen, gpus(8, 24), Wish(gpu_count=8)).verdict is Verdict.UNEVEN
    grouped = estimate(qwen, gpus(8, 24), Wish(gpu_count=8, pipeline=2))
    assert (grouped.verdict, grouped.gpu_count) == (Verdict.FITS, 8)
    assert grouped.kv_bytes_per_token == 57_344


def test_copies_take_all_of_it_again_and_serve_as_many_more() -> None:
    one = estimate(LLAMA, gpus(1, 80), Wish(gpu_count=1))
    four = estimate(LLAMA, gpus(4, 80), Wish(gpu_count=4, copies=4))
    assert four.weight_bytes == 4 * one.weight_bytes
    assert four.max_context == one.max_context
    assert four.sequences == 4 * (one.sequences or 0)


def test_settings_that_do_not_multiply_to_the_gpus_are_uneven() -> None:
    assert estimate(LLAMA, gpus(4, 80), Wish(gpu_count=4, tensor=3)).verdict is Verdict.UNEVEN
    assert estimate(LLAMA, gpus(4, 80), Wish(gpu_count=8)).verdict is Verdict.TOO_FEW


def test_no_more_users_than_the_engine_computes_side_by_side() -> None:
    fit = estimate(LLAMA, gpus(1, 80), Wish(at_a_time=16))
    assert users(fit)[4096] == 16
    assert fit.sequences == 3


def test_users_are_told_for_a_long_chat_or_for_the_whole_context_where_that_is_shorter() -> None:
    for context, told in ((131_072, 8192), (8192, 8192), (6000, 6000)):
        chat = estimate(LLAMA, gpus(1, 80), Wish(context=context)).chat
        assert chat is not None
        assert chat.context == told
    small = estimate(LLAMA, gpus(1, 19))
    assert (small.verdict, small.chat) == (Verdict.SHORTER, None)


def test_tokens_in_flight_add_to_a_window() -> None:
    shape = Shape(layers=2, heads=8, kv_heads=8, head_dim=64, window_layers=2, window=128)
    per_token = 2 * 2 * 8 * 64 * 2
    assert kv_bytes(shape, 100_000, in_flight=4096) == (128 + 4096) * per_token


def test_where_nobody_says_steps_are_as_large_as_the_engine_makes_them() -> None:
    sizes = [Wish().step(gib and gib * GIB) for gib in (None, 24, 80, 180)]
    assert sizes == [(2048, 128), (2048, 256), (8192, 1024), (16_384, 1024)]
    assert Wish.of({"performance_mode": "throughput"}).step(80 * GIB) == (16_384, 2048)
    assert Wish(at_a_time=7, batch=70, larger_steps=True).step(80 * GIB) == (70, 7)
    tiny = card("Qwen/Qwen2.5-0.5B-Instruct")
    assert users(estimate(tiny, gpus(1, 24)))[4096] == 256  # there is room for more


def test_main_memory_is_meant_by_no_gpu() -> None:
    machine = Hardware(memory_bytes=64 * GIB, gpu_memory_bytes=(80 * GIB,))
    assert estimate(LLAMA, machine, Wish(gpu_count=0)).gpu_count == 0


def other(model: ModelCard, machine: Hardware, wish: Wish) -> Alternatives:
    none = Correction()
    return alternatives(model, machine, wish, none, estimate(model, machine, wish, none))


@pytest.mark.parametrize(
    ("wish", "machine", "expected"),
    [
        # 15 GiB of weights and 2 of overhead do not fit in 0.9 × 16: whatever runs is better
        (Wish(gpu_count=1), gpus(2, 16), Alternatives(gpu_count=2, fp8_weights=True)),
        (Wish(gpu_count=1), gpus(4, 16), Alternatives(gpu_count=4, fp8_weights=True)),
        (Wish(gpu_count=1), gpus(1, 8), Alternatives()),
        # Some of the 131,072 tokens have room, and two GPUs of this size have no room for all
        (Wish(gpu_count=1), gpus(2, 19), Alternatives()),
        (Wish(gpu_count=1, context=8192), gpus(2, 16), Alternatives(gpu_count=2, fp8_weights=True)),
        (Wish(context=32_768), gpus(1, 20), Alternatives(fp8_weights=True)),
        # 0.9 × 24 - 2 - 15 = 4.6 GiB: 37,000 tokens of 128 KiB, or twice as many of 64
        (Wish(context=65_536), gpus(1, 24), Alternatives(fp8_weights=True, fp8_cache=True)),
        (Wish(gpu_count=8), gpus(1, 80), Alternatives(gpu_count=1)),
        (Wish(gpu_count=1), gpus(1, 80), Alternatives()),
    ],
)
def test_what_to_choose_instead(wish: Wish, machine: Hardware, expected: Alternatives) -> None:
    assert other(LLAMA, machine, wish) == expected


@given(cards, machines)
def test_what_is_proposed_helps(model: ModelCard, machine: Hardware) -> None:
    wish = Wish(gpu_count=1)
    proposed = other(model, machine, wish)
    nothing_yet = estimate(model, machine, wish).verdict is Verdict.TOO_BIG
    changes: list[dict[str, Any]] = [{"gpu_count": proposed.gpu_count or 1}]
    changes += [{"quantization": "fp8"}] if proposed.fp8_weights else []
    changes += [{"kv_dtype": "fp8"}] if proposed.fp8_cache else []
    for change in changes if proposed else []:
        if change == {"gpu_count": 1}:
            continue
        fit = estimate(model, machine, replace(wish, **change))
        assert fit.runs if nothing_yet else fit.verdict is Verdict.FITS


def test_files_that_are_quantized_are_not_quantized_again() -> None:
    quantized = replace(LARGE, quantization="awq", weight_bytes=40 * 10**9)
    assert not other(quantized, gpus(1, 24), Wish()).fp8_weights


def test_the_overhead_is_one_of_each_gpu() -> None:
    assert estimate(LARGE, gpus(4, 80), Wish(gpu_count=4)).overhead_bytes == 4 * GPU_OVERHEAD
