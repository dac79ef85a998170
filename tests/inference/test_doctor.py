import signal

import pytest

from inference.doctor import diagnose
from inference.provisioners.base import Reason


@pytest.mark.parametrize(
    ("line", "reason", "word"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate", "out_of_memory", "GPU"),
        (
            "ValueError: To serve at least one request with the models's max seq len (131072), "
            "(16.00 GiB KV cache is needed, which is larger than the available KV cache memory",
            "bad_arguments",
            "shorter",
        ),
        (
            "User-specified max_model_len (9999) is greater than the derived max_model_len (512)",
            "bad_arguments",
            "model's own",
        ),
        (
            "ValueError: Model architectures ['AbacusForCausalLM'] are not supported for now.",
            "bad_arguments",
            "architecture",
        ),
        ("Please pass the argument `trust_remote_code=True`", "bad_arguments", "code of its own"),
        ("OSError: [Errno 28] No space left on device", "insufficient_capacity", "disk"),
        ("RuntimeError: The NVIDIA driver on your system is too old", "image_error", "driver"),
        ("api_server.py: error: unrecognized arguments: --abacus", "bad_arguments", "settings"),
        ("ModuleNotFoundError: No module named 'vllm'", "image_error", "Install"),
    ],
)
def test_a_known_sign_becomes_a_reason_and_a_sentence(line: str, reason: str, word: str) -> None:
    diagnosis = diagnose(1, ["INFO starting", line, "INFO bye"])

    assert diagnosis.reason == reason and word in diagnosis.message


@pytest.mark.parametrize(
    ("code", "word"), [(7, "code 7"), (-signal.SIGKILL, "killed"), (-6, "signal 6"), (None, "gone")]
)
def test_without_a_sign_the_exit_code_speaks(code: int | None, word: str) -> None:
    diagnosis = diagnose(code, ["nothing of note"])

    assert diagnosis.reason == "crashed" and word in diagnosis.message


def test_every_reason_is_of_the_closed_set() -> None:
    from_signs = {diagnose(1, [text]).reason for text in ("MemoryError", "ImportError", "")}

    assert from_signs <= {str(reason) for reason in Reason}
