import pytest

from inference.doctor import Code, Diagnosis, Kind, Remedy, Situation, diagnose, remedies
from inference.engines.base import SettingValue
from tests.inference.doctor_logs import read

ONE_GPU = Situation(gpu_count=1, machine_gpus=4)


def first(diagnosis: Diagnosis, situation: Situation) -> Remedy:
    return remedies(diagnosis, situation)[0]


def names(diagnosis: Diagnosis, situation: Situation) -> list[str]:
    return [remedy.name for remedy in remedies(diagnosis, situation)]


def test_the_longest_context_that_fits_is_offered_first() -> None:
    best = first(diagnose(1, read("cuda_kv_space")), ONE_GPU)

    assert best.settings == {"max_model_len": 24_576}
    assert best.label % best.figures == "Start with a context of 24576 tokens"


def test_a_cpus_space_for_conversations_can_be_as_large_as_is_needed() -> None:
    diagnosis = Diagnosis(Code.KV_SPACE, {"max_context": 1_000_000, "needed_mib": 1954})

    offered = {remedy.name: remedy for remedy in remedies(diagnosis, Situation())}

    assert offered["context"].settings == {"max_model_len": 999_936}
    assert offered["conversations"].settings == {"kv_cache_gib": 2}


def test_as_much_is_set_aside_for_conversations_as_the_machine_has_left() -> None:
    diagnosis = Diagnosis(Code.HOST_MEMORY, {"free_mib": 20_940})

    assert first(diagnosis, Situation(settings={"kv_cache_gib": 1000})).settings == {
        "kv_cache_gib": 19
    }


@pytest.mark.parametrize(
    ("log", "settings"),
    [
        ("own_context", {"max_model_len": 2048}),
        ("cuda_busy", {"gpu_memory_utilization": 0.37}),  # 30.59 of 79.2 GiB are free
        ("cuda_kv_nothing", {"gpu_memory_utilization": 0.95}),
        ("cuda_bfloat16", {"dtype": "float16"}),
    ],
)
def test_a_setting_is_changed_to_what_the_log_allows(
    log: str, settings: dict[str, SettingValue]
) -> None:
    assert first(diagnose(1, read(log)), ONE_GPU).settings == settings


def test_what_a_draft_model_cannot_guess_for_is_served_without_it() -> None:
    guessing = Situation(settings={"speculation": "draft_model", "speculative_tokens": 3})
    diagnosis = diagnose(1, read("other_vocabulary"))

    assert guessing.changed(first(diagnosis, guessing)) == {}


@pytest.mark.parametrize(
    ("log", "asked", "there", "count"),
    [
        ("heads", 3, 4, 2),  # of 4 heads
        ("cuda_weights", 2, 8, 4),
        ("cuda_world_size", 8, 2, 2),
    ],
)
def test_another_number_of_gpus_is_one_that_there_is_and_that_divides_the_heads(
    log: str, asked: int, there: int, count: int
) -> None:
    situation = Situation(gpu_count=asked, machine_gpus=there)

    assert first(diagnose(1, read(log)), situation).gpu_count == count


def test_more_gpus_than_there_are_are_not_offered() -> None:
    alone = Situation(gpu_count=1, machine_gpus=1, settings={"max_model_len": 8192})

    offered = remedies(Diagnosis(Code.GPU_MEMORY), alone)

    assert not [remedy for remedy in offered if remedy.gpu_count]
    assert [remedy.name for remedy in offered[:2]] == ["requests", "context"]
    assert offered[1].settings == {"max_model_len": 4096}


def test_what_is_set_already_is_not_offered() -> None:
    full = Situation(gpu_count=1, machine_gpus=1, settings={"gpu_memory_utilization": 0.95})

    assert "gpu-share" not in names(Diagnosis(Code.KV_NOTHING), full)


def test_a_setting_of_gpus_is_not_offered_on_a_cpu() -> None:
    assert names(Diagnosis(Code.KV_NOTHING), Situation()) == ["model", "retry"]


def test_refused_settings_give_way_to_the_engines_own() -> None:
    situation = Situation(settings={"max_num_seqs": 7, "dtype": "float16"})

    best = first(Diagnosis(Code.BAD_SETTING), situation)

    assert situation.changed(best) == {}


def test_a_change_leaves_the_other_settings_as_they_are() -> None:
    situation = Situation(settings={"max_model_len": 9999, "max_num_seqs": 7})

    best = first(diagnose(1, read("own_context")), situation)

    assert situation.changed(best) == {"max_model_len": 2048, "max_num_seqs": 7}


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (Code.GATED, Kind.ACCESS),
        (Code.UNKNOWN_ARCHITECTURE, Kind.MODEL),
        (Code.NEEDS_CODE, Kind.MODEL),
        (Code.NO_CHAT_TEMPLATE, Kind.MODEL),
        (Code.DRIVER, Kind.OPERATOR),
        (Code.ENVIRONMENT, Kind.OPERATOR),
        (Code.DISK, Kind.OPERATOR),
        (Code.DOWNLOAD, Kind.RETRY),
        (Code.LOAD_TIMEOUT, Kind.RETRY),
        (Code.EXITED, Kind.RETRY),
    ],
)
def test_where_no_setting_helps_it_leads_to_who_can(code: Code, kind: Kind) -> None:
    assert first(Diagnosis(code), Situation()).kind is kind


@pytest.mark.parametrize("code", Code)
def test_every_failure_can_be_tried_again_and_each_remedy_is_named_once(code: Code) -> None:
    offered = names(Diagnosis(code, {"heads": 8, "gpus": 3}), ONE_GPU)

    assert "retry" in offered and len(offered) == len(set(offered))
