"""Each start is written down, and the next estimate is the better for it."""

from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone

from accounts.models import Organization, User
from inference import fit_records, folders, tasks
from inference.fit import GIB, GPU_OVERHEAD, Wish
from inference.fit.correction import Correction
from inference.fit_answers import House
from inference.hub import forget_failures
from inference.lifecycle import InstanceState
from inference.measured import Measured
from inference.model_shape import Shape
from inference.models import FitRecord, Instance, Replica
from inference.provisioners.fake import GPU_TYPE, FakeProvisioner
from inference.reconciler import Reconciler
from tests.fakes.hub import FakeHub, tiny_model
from tests.inference.making import a_wish, rounds

GPU = 64 * GIB  # of the fake place
SHARE = int(GPU * 0.9)


@pytest.fixture
def place() -> FakeProvisioner:
    return FakeProvisioner(gpus=2)


@pytest.fixture
def reconciler(place: FakeProvisioner) -> Reconciler:
    return Reconciler(place)


def demo_shape() -> Shape:
    shape = folders.bundled_card().shape
    assert shape is not None
    return shape


def said(weights: int, overhead: int, padding: float = 1.0) -> Measured:
    """What an engine says that took so much for weights and overhead, and whose conversations take
    `padding` times what the architecture says, with 2048 tokens each."""
    shape = demo_shape()
    token = 2 * shape.layers * shape.kv_heads * shape.head_dim * 2 * padding
    cache = SHARE - weights - overhead
    concurrency = cache / (2048 * token)
    return Measured(
        weight_bytes=weights,
        kv_cache_bytes=cache,
        kv_cache_tokens=int(concurrency * 2048),
        max_concurrency=concurrency,
    )


def test_a_start_is_written_down_once_with_what_the_engine_said(
    acme: Organization, alice: User, place: FakeProvisioner, reconciler: Reconciler
) -> None:
    place.measured = said(3 * GIB, 4 * GIB)
    instance = a_wish(acme, alice, gpu_count=1, settings={"kv_cache_dtype": "fp8"})
    rounds(reconciler, instance)
    replica = instance.replicas.get()
    record = FitRecord.objects.get()
    assert record.replica == replica
    assert (record.engine, record.engine_version) == ("vllm", "0.0-fake")
    assert (record.gpu_type, record.gpu_count) == (GPU_TYPE, 1)
    assert (record.context_length, record.kv_dtype) == (2048, "fp8")
    assert (record.memory_bytes, record.available_bytes) == (GPU, SHARE)
    assert record.measured_weight_bytes == 3 * GIB
    assert record.measured_kv_tokens == replica.kv_cache_tokens
    place.silence(str(replica.id))
    rounds(reconciler, instance, 2)
    place.silence(str(replica.id), over=True)
    rounds(reconciler, instance, 2)
    assert FitRecord.objects.count() == 1


def test_a_start_with_a_draft_model_teaches_nothing_of_the_model(
    acme: Organization, alice: User, place: FakeProvisioner, reconciler: Reconciler
) -> None:
    place.measured = said(3 * GIB, 4 * GIB)
    card = folders.bundled_card()
    draft = {"draft_source": card.source, "draft_id": card.model_id, "draft_revision": "1" * 40}
    guessing = {"speculation": "draft_model"}
    instance = a_wish(acme, alice, gpu_count=1, settings=guessing, **draft)
    rounds(reconciler, instance)
    assert instance.replicas.get().weight_bytes == 3 * GIB
    assert not FitRecord.objects.exists()


def test_what_was_to_be_expected_follows_by_the_task(
    acme: Organization, alice: User, place: FakeProvisioner, reconciler: Reconciler
) -> None:
    card = folders.bundled_card()
    place.measured = said(card.weight_bytes, 3 * GPU_OVERHEAD)
    rounds(reconciler, a_wish(acme, alice, gpu_count=1))
    assert tasks.estimate_starts() == 1
    assert tasks.estimate_starts() == 0
    record = FitRecord.objects.get()
    assert (record.architecture, record.quantization) == ("LlamaForCausalLM", "auto")
    assert record.estimated_weight_bytes == 2 * (card.parameters or 0)
    assert record.estimated_overhead_bytes == GPU_OVERHEAD
    assert record.estimated_kv_bytes_per_token == 1024
    assert record.estimated_request_bytes == 2048 * 1024
    assert record.estimated_kv_tokens is not None
    assert record.measured_kv_tokens is not None
    # It was told that there is room for so many more tokens than there are.
    surplus = record.estimated_kv_tokens - record.measured_kv_tokens
    assert surplus * 1024 == pytest.approx(2 * GPU_OVERHEAD, rel=0.01)
    assert record.error == pytest.approx(surplus / record.measured_kv_tokens)


def test_the_next_estimate_is_corrected_and_says_so(
    acme: Organization, alice: User, place: FakeProvisioner, reconciler: Reconciler
) -> None:
    card = folders.bundled_card()
    place.measured = said(card.weight_bytes, 3 * GPU_OVERHEAD, padding=2.0)
    errors = []
    for number in (1, 2):
        rounds(reconciler, a_wish(acme, alice, name=f"demo-{number}", gpu_count=1))
        tasks.estimate_starts()
        newest = FitRecord.objects.order_by("-created_at")[0]
        errors.append(newest.error)
    assert errors[0] is not None
    assert errors[0] > 1  # twice as many tokens, and more
    assert errors[1] == pytest.approx(0, abs=0.001)

    answer = House.of(acme).answers(card, Wish(gpu_count=1, context=2048))[0]
    assert answer.fit.starts == 2
    assert "Measured on 2 starts of this kind here." in answer.sentences
    assert answer.fit.overhead_bytes == pytest.approx(3 * GPU_OVERHEAD, rel=0.001)
    assert answer.fit.kv_tokens == pytest.approx(newest.measured_kv_tokens, rel=0.001)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (0.125, "12.5 % more than the engine measured"),
        (-0.02, "2 % less than the engine measured"),
    ],
)
def test_an_instances_page_says_how_wrong_its_estimate_was(
    alice_client: Client,
    acme: Organization,
    alice: User,
    reconciler: Reconciler,
    error: float,
    words: str,
) -> None:
    instance = rounds(reconciler, a_wish(acme, alice))
    assert (
        "the engine measured" not in alice_client.get(instance.get_absolute_url()).content.decode()
    )
    FitRecord.objects.update(error=error)
    assert words in alice_client.get(instance.get_absolute_url()).content.decode()


def test_other_engines_gpus_and_architectures_learn_nothing_from_it(
    acme: Organization, alice: User, place: FakeProvisioner, reconciler: Reconciler
) -> None:
    card = folders.bundled_card()
    place.measured = said(card.weight_bytes, 3 * GPU_OVERHEAD)
    rounds(reconciler, a_wish(acme, alice, gpu_count=1))
    tasks.estimate_starts()
    known = fit_records.Corrections.of_house()
    assert known.correction("vllm", card, GPU_TYPE, Wish()).starts == 1
    assert known.correction("llamacpp", card, GPU_TYPE, Wish()) == Correction()
    assert known.correction("vllm", card, "NVIDIA L4", Wish()) == Correction()
    assert known.correction("vllm", card, "", Wish()) == Correction()


def test_a_short_context_teaches_nothing_about_tokens(
    acme: Organization, alice: User, place: FakeProvisioner, reconciler: Reconciler
) -> None:
    card = folders.bundled_card()
    place.measured = said(2 * (card.parameters or 0), GPU_OVERHEAD, padding=2.0)
    rounds(reconciler, a_wish(acme, alice, gpu_count=1))
    tasks.estimate_starts()
    factors = [fit_records.Corrections.of_house().correction("vllm", card, GPU_TYPE, Wish()).kv]
    FitRecord.objects.update(context_length=100)
    factors += [fit_records.Corrections.of_house().correction("vllm", card, GPU_TYPE, Wish()).kv]
    assert factors == [pytest.approx(2.0), 1.0]


def test_an_engine_that_says_nothing_starts_all_the_same(
    acme: Organization, alice: User, reconciler: Reconciler
) -> None:
    instance = rounds(reconciler, a_wish(acme, alice))
    assert instance.state == InstanceState.READY
    tasks.estimate_starts()
    record = FitRecord.objects.get()
    assert (record.gpu_count, record.available_bytes, record.measured_kv_tokens) == (0, None, None)
    assert record.error is None
    card = folders.bundled_card()
    assert fit_records.Corrections.of_house().correction("vllm", card, "", Wish()).starts == 0


def test_a_model_that_is_gone_is_not_asked_for_again(
    acme: Organization, alice: User, reconciler: Reconciler
) -> None:
    rounds(reconciler, a_wish(acme, alice))
    Instance.objects.update(model_source="local", model_id="absent")
    Replica.objects.update(revision=None)
    assert tasks.estimate_starts() == 1
    record = FitRecord.objects.get()
    assert (record.architecture, record.estimated_weight_bytes) == ("", None)
    assert tasks.estimate_starts() == 0


def test_a_hub_that_does_not_answer_is_asked_later_for_a_day(
    acme: Organization, alice: User, reconciler: Reconciler, hub: FakeHub
) -> None:
    commit = hub.add("umbrella/tiny", tiny_model()).commit
    rounds(
        reconciler,
        a_wish(acme, alice, model_source="hub", model_id="umbrella/tiny", model_revision=commit),
    )
    hub.down = 503
    assert tasks.estimate_starts() == 0
    hub.down = None
    forget_failures()
    FitRecord.objects.update(created_at=timezone.now() - timedelta(days=2))
    assert tasks.estimate_starts() == 0
    FitRecord.objects.update(created_at=timezone.now())
    assert tasks.estimate_starts() == 1
    assert FitRecord.objects.get().architecture == "LlamaForCausalLM"
