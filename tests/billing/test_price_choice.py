"""Which price holds: the most specific, of those for the same the newest that has begun."""

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.price_choice import choose, specificity

NOW = datetime(2026, 11, 28, tzinfo=UTC)


class V(NamedTuple):
    id: int
    model: str = ""
    engine: str = ""
    gpu_type: str = ""
    own: bool = False
    ends: bool = False
    effective_at: datetime = NOW - timedelta(days=30)


ALL = V(1)
GPU = V(2, gpu_type="H100")
ENGINE = V(3, engine="vllm")
ENGINE_GPU = V(4, engine="vllm", gpu_type="H100")
MODEL = V(5, model="qwen")
MODEL_GPU = V(6, model="qwen", gpu_type="H100")
MODEL_ENGINE = V(7, model="qwen", engine="vllm")
EXACT = V(8, model="qwen", engine="vllm", gpu_type="H100")
OTHER = V(9, model="llama", engine="vllm", gpu_type="H100")
LADDER = [ALL, GPU, ENGINE, ENGINE_GPU, MODEL, MODEL_GPU, MODEL_ENGINE, EXACT]


def holds(*versions: V) -> V | None:
    return choose(versions, NOW, model="qwen", engine="vllm", gpu_type="H100")


@pytest.mark.parametrize("best", range(len(LADDER)))
def test_the_most_specific_one_wins_whatever_the_order(best: int) -> None:
    versions = [*LADDER[: best + 1], OTHER]
    assert holds(*versions) == holds(*reversed(versions)) == LADDER[best]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"model": "qwen", "engine": "vllm", "gpu_type": "H100"}, EXACT),
        ({"model": "qwen", "engine": "vllm", "gpu_type": ""}, MODEL_ENGINE),
        ({"model": "qwen", "engine": "llama-cpp", "gpu_type": "H100"}, MODEL_GPU),
        ({"model": "qwen", "engine": "", "gpu_type": ""}, MODEL),
        ({"model": "mistral", "engine": "vllm", "gpu_type": "H100"}, ENGINE_GPU),
        ({"model": "mistral", "engine": "vllm", "gpu_type": "A100"}, ENGINE),
        ({"model": "mistral", "engine": "llama-cpp", "gpu_type": "H100"}, GPU),
        ({"model": "llama", "engine": "vllm", "gpu_type": "H100"}, OTHER),
        ({"model": "", "engine": "", "gpu_type": ""}, ALL),
    ],
)
def test_what_each_thing_costs(asked: dict[str, str], found: V) -> None:
    assert choose([*LADDER, OTHER], NOW, **asked) == found


def test_without_one_that_is_for_it_there_is_no_price() -> None:
    assert holds() is None
    assert holds(OTHER) is None


def test_an_organizations_own_comes_before_anything_of_the_house() -> None:
    own = ALL._replace(id=20, own=True)
    assert holds(*LADDER, own) == own
    assert choose([ALL, OTHER._replace(own=True)], NOW, model="qwen") == ALL


def test_the_newest_that_has_begun_holds() -> None:
    day = timedelta(days=1)
    newer = MODEL._replace(id=21, effective_at=NOW)
    coming = MODEL._replace(id=22, effective_at=NOW + day)
    assert holds(MODEL, coming, newer) == newer
    assert choose([MODEL, coming, newer], NOW + day, model="qwen") == coming
    assert choose([MODEL, newer], NOW - day, model="qwen") == MODEL
    # A newer one that is less specific changes nothing for what has a price of its own.
    assert holds(MODEL, ALL._replace(id=23, effective_at=NOW)) == MODEL


def test_of_two_from_the_same_moment_the_later_made_holds() -> None:
    again = MODEL._replace(id=30)
    assert holds(again, MODEL) == holds(MODEL, again) == again


def test_one_that_ends_gives_way_to_the_less_specific() -> None:
    end = EXACT._replace(id=31, ends=True, effective_at=NOW)
    assert holds(EXACT, end, MODEL, ALL) == MODEL
    assert holds(EXACT, end) is None
    assert (
        choose([EXACT, end], NOW - timedelta(days=1), model="qwen", engine="vllm", gpu_type="H100")
        == EXACT
    )


NAMES = st.sampled_from(["", "a", "b"])
VERSIONS = st.lists(
    st.builds(
        V,
        st.integers(0, 9),
        NAMES,
        NAMES,
        NAMES,
        st.booleans(),
        st.booleans(),
        st.integers(-3, 3).map(lambda days: NOW + timedelta(days=days)),
    ),
    max_size=12,
    unique_by=lambda version: version.id,
)


@given(VERSIONS, NAMES, NAMES, NAMES)
def test_whatever_is_chosen_is_for_it_has_begun_and_nothing_better_holds(
    versions: list[V], model: str, engine: str, gpu_type: str
) -> None:
    found = choose(versions, NOW, model=model, engine=engine, gpu_type=gpu_type)
    for version in versions:
        fits = version.model in ("", model) and version.engine in ("", engine)
        if not (fits and version.gpu_type in ("", gpu_type)) or version.effective_at > NOW:
            assert version != found
            continue
        newer = [
            other
            for other in versions
            if other[1:5] == version[1:5]
            and version.effective_at <= other.effective_at <= NOW
            and (other.effective_at, other.id) > (version.effective_at, version.id)
        ]
        if not newer and not version.ends:
            assert found is not None
            assert specificity(found) >= specificity(version)
