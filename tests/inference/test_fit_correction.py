"""What measured starts teach, and what a million tokens cost."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.fit import GIB, GPU_OVERHEAD, Fit, Users, Verdict, Wish, estimate
from inference.fit.bandwidth import bandwidth
from inference.fit.correction import Correction, Start, learn
from inference.fit.price import decode_speed, full_load_speed, per_million_tokens
from inference.measured import Measured
from tests.inference.test_fit import card, gpus

LLAMA = card("meta-llama/Llama-3.1-8B-Instruct")
H100 = gpus(1, 80)


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


def test_weights_of_another_format_teach_nothing_about_these() -> None:
    fp8 = Start(
        available_bytes=72 * GIB,
        weight_bytes=8 * GIB,
        overhead_bytes=2 * GIB,
        number_format="auto/fp8",
        measured=Measured(weight_bytes=10 * GIB, kv_cache_bytes=60 * GIB),
    )
    assert learn([fp8], "auto/fp8").weights == 1.25
    assert learn([fp8], "auto/auto").weights == 1.0
    assert learn([fp8], "auto/auto").overhead == 1.0  # 72 - 10 - 60 = 2


def started(overhead: float, weights: float, kv: float) -> Start:
    """What an engine says where each part of the estimate is wrong by such a factor."""
    bare = estimate(LLAMA, H100)
    assert bare.request_bytes is not None
    real_weights = round(bare.weight_bytes * weights)
    cache = bare.available_bytes - real_weights - round(GPU_OVERHEAD * overhead)
    return Start(
        available_bytes=bare.available_bytes,
        weight_bytes=bare.weight_bytes,
        overhead_bytes=bare.overhead_bytes,
        request_bytes=bare.request_bytes,
        measured=Measured(
            weight_bytes=real_weights,
            kv_cache_bytes=cache,
            max_concurrency=cache / (bare.request_bytes * kv),
        ),
    )


@given(
    overhead=st.floats(0.3, 3.9),
    weights=st.floats(0.3, 3),
    kv=st.floats(0.3, 3.9),
    odd=st.lists(
        st.tuples(st.floats(0.3, 3.9), st.floats(0.3, 3), st.floats(0.3, 3.9)), max_size=3
    ),
)
def test_where_the_error_is_constant_it_is_gone_after_a_few_starts(
    overhead: float, weights: float, kv: float, odd: list[tuple[float, float, float]]
) -> None:
    same = started(overhead, weights, kv)
    learnt = learn([started(*other) for other in odd] + [same] * (len(odd) + 1))
    told = estimate(LLAMA, H100, Wish(), learnt)
    assert told.weight_bytes == pytest.approx(same.measured.weight_bytes, rel=1e-6)
    assert told.kv_room_bytes == pytest.approx(same.measured.kv_cache_bytes, rel=1e-6)
    assert told.concurrency == pytest.approx(same.measured.max_concurrency, rel=1e-4)
    assert told.starts == 2 * len(odd) + 1


def test_on_a_cpu_the_cache_alone_teaches() -> None:
    said = Measured(kv_cache_tokens=4096, max_concurrency=0.5, kv_cache_bytes=GIB)
    one = Start(
        available_bytes=0, weight_bytes=GIB, overhead_bytes=GIB, request_bytes=GIB, measured=said
    )
    assert learn([one]) == Correction(kv=2.0, starts=1)


def test_a_million_tokens_cost_the_hours_that_they_take() -> None:
    assert per_million_tokens(Decimal("3.60"), 1000) == Decimal(1)
    assert per_million_tokens(Decimal(1), 0) is None


def test_each_step_reads_the_weights_once_for_all_users() -> None:
    assert decode_speed(10, 0, 1000.0) == 100
    assert decode_speed(10, 10, 1000.0, users=9) == 90


def test_at_full_load_all_that_is_in_memory_is_read_for_a_token_of_each_user() -> None:
    fit = Fit(
        verdict=Verdict.FITS,
        gpu_count=2,
        weight_bytes=100,
        context=131_072,
        users=(Users(4096, 9, 5), Users(8192, 4, 25)),
    )
    # 4 users × 2 GPUs × 1000 B/s × 0.8, over 100 + 4 × 25 bytes
    assert full_load_speed(fit, 1000.0) == pytest.approx(32.0)
    assert full_load_speed(Fit(verdict=Verdict.TOO_BIG, gpu_count=1), 1000.0) == 0.0


def test_the_speed_of_an_unlisted_gpu_is_not_guessed() -> None:
    assert bandwidth("NVIDIA H100 80GB HBM3") == 3.35e12
    assert bandwidth("Fake GPU") is None
