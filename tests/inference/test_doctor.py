import signal

import pytest

from inference.doctor import FINDINGS, Code, diagnose, without_paths
from inference.provisioners.base import Reason
from tests.inference.doctor_logs import QUOTED, REAL, read


@pytest.mark.parametrize("name", REAL)
def test_a_real_log_tells_what_was_wrong(name: str) -> None:
    code, expected, facts = REAL[name]

    diagnosis = diagnose(code, read(name))

    assert diagnosis.code == expected
    assert facts.items() <= dict(diagnosis.facts).items()


@pytest.mark.parametrize("name", QUOTED)
def test_a_text_of_the_engines_source_tells_too(name: str) -> None:
    expected, facts = QUOTED[name]

    diagnosis = diagnose(1, read(name))

    assert diagnosis.code == expected
    assert facts.items() <= dict(diagnosis.facts).items()


@pytest.mark.parametrize(
    ("message", "reason", "code"),
    [
        (
            "acme/llama is gated: accept its licence on the hub, and give the organization a hub "
            "token that may read it.",
            Reason.BAD_ARGUMENTS,
            Code.GATED,
        ),
        (
            "The hub has no model acme/llama, or the organization's hub token may not see it.",
            Reason.BAD_ARGUMENTS,
            Code.NO_ACCESS,
        ),
        (
            "The model wants to run code of its own (auto_map), which is refused here.",
            Reason.BAD_ARGUMENTS,
            Code.NEEDS_CODE,
        ),
        (
            "The weights are not in safetensors format. Other formats can hide code and are "
            "refused.",
            Reason.BAD_ARGUMENTS,
            Code.UNSAFE_WEIGHTS,
        ),
        (
            "The model needs 16.1 GB more on the disk of /models, which has 2.0 GB free.",
            Reason.INSUFFICIENT_CAPACITY,
            Code.DISK,
        ),
        (
            "The Hugging Face hub does not answer. The download goes on where it stopped when the "
            "network is back.",
            Reason.BACKEND_UNREACHABLE,
            Code.DOWNLOAD,
        ),
        ("All GPUs are taken.", Reason.INSUFFICIENT_CAPACITY, Code.NO_ROOM),
        ("The machine was restarted.", Reason.NODE_LOST, Code.NODE_LOST),
        ("Not ready in time.", Reason.LOAD_TIMEOUT, Code.LOAD_TIMEOUT),
        ("Whatever it was.", Reason.IMAGE_ERROR, Code.ENVIRONMENT),
    ],
)
def test_what_a_place_said_itself_is_understood(message: str, reason: str, code: Code) -> None:
    assert diagnose(None, [], reason=reason, message=message).code == code


def test_an_engine_that_took_too_long_has_no_other_fault() -> None:
    warned = ["ModuleNotFoundError: No module named 'abacus', so it is not used"]

    assert diagnose(-9, warned, reason=Reason.LOAD_TIMEOUT).code == Code.LOAD_TIMEOUT


@pytest.mark.parametrize(
    ("code", "word"), [(7, "code 7"), (-signal.SIGKILL, "killed"), (-6, "signal 6"), (None, "gone")]
)
def test_without_a_sign_the_exit_code_speaks(code: int | None, word: str) -> None:
    diagnosis = diagnose(code, ["nothing of note"])

    assert diagnosis.reason == "crashed" and word in diagnosis.message


def test_a_processor_that_is_too_old_is_not_the_models_fault() -> None:
    assert diagnose(-signal.SIGILL, ["loading model"]).code == Code.PROCESSOR


def test_what_a_healthy_engine_prints_is_no_sign() -> None:
    assert "trust_remote_code=False" in "\n".join(read("healthy"))

    assert diagnose(-signal.SIGKILL, read("healthy")).code == Code.KILLED


def test_every_code_has_a_reason_of_the_closed_set_and_a_sentence() -> None:
    assert set(FINDINGS) == set(Code)
    for finding in FINDINGS.values():
        assert finding.reason in set(Reason) and finding.sentence.endswith(".")


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ('  File "/srv/engines/vllm/config/model.py", line 3', '  File "…/model.py", line 3'),
        ("loading /data/models/qwen", "loading …/qwen"),
        ("see https://docs.vllm.ai/en/latest/usage/", "see https://docs.vllm.ai/en/latest/usage/"),
        ("model Qwen/Qwen3-8B at 3/4", "model Qwen/Qwen3-8B at 3/4"),
    ],
)
def test_tenants_do_not_see_where_things_lie(line: str, shown: str) -> None:
    assert without_paths(line) == shown
