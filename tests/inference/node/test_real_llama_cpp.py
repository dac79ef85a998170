"""A real llama.cpp from the wish to its end, within walls where the machine has them."""

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from inference import demo
from inference.engines import ENGINES
from inference.node import processes
from inference.provisioners.base import Phase, Reason, Rejected
from tests.fakes.gguf import of_folder
from tests.inference.engines.real import interpreter
from tests.inference.node.rig import Rig, rig, wait_for, wait_until
from tests.inference.node.test_walls import need_walls

ENGINE = ENGINES["llama_cpp"]
RECIPE = ENGINE.recipe("cpu")
FILE = "editions/demo-BF16.gguf"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(200)]


@pytest.fixture(scope="module")
def node() -> Iterator[Rig]:
    engines = interpreter(RECIPE).parents[2]
    with rig("", begin=False) as made:
        (made.home / "engines").symlink_to(engines)
        model = made.home / "gguf" / FILE
        model.parent.mkdir(parents=True)
        model.write_bytes(of_folder(demo.MODEL_PATH))
        made.start()
        yield made


def wish(node: Rig, **changes: object) -> dict[str, object]:
    facts = {"engine": "llama_cpp", "model_path": str(node.home / "gguf"), "model_file": FILE}
    return {**facts, **changes}


def test_it_is_ready_answers_and_ends(node: Rig) -> None:
    handle = node.provisioner.ensure(node.spec(**wish(node, settings={"max_model_len": 512})))

    seen = wait_for(node.provisioner, handle, Phase.READY, 60)

    assert (seen.context_length, seen.engine_version) == (512, RECIPE.version)
    assert seen.measured is not None and seen.measured.kv_cache_tokens == 4 * 512
    assert seen.probe is not None and seen.probe.completion_tokens == 2
    wait_until(lambda: node.provisioner.observe(handle).figures is not None)
    figures = node.provisioner.observe(handle).figures
    assert figures is not None and figures.completion_tokens == seen.probe.completion_tokens
    transport = httpx2.HTTPTransport(uds=seen.address.removeprefix("unix:"))
    with httpx2.Client(transport=transport, base_url="http://engine") as client:
        said = client.post(
            "/v1/chat/completions",
            json={
                "model": "acme-chat",
                "messages": [{"role": "user", "content": "What is Modelport?"}],
                "temperature": 0,
            },
        ).json()
    assert said["choices"][0]["message"]["content"].startswith("Modelport is a self-service")

    node.provisioner.stop(handle, 5)
    wait_until(lambda: node.provisioner.observe(handle).phase is Phase.EXITED)

    assert node.provisioner.observe(handle).reason is Reason.CANCELLED
    assert processes.of_replica(handle.replica_id, None) == []


def test_it_listens_on_its_socket_alone(node: Rig) -> None:
    handle = node.provisioner.ensure(node.spec(**wish(node)))
    seen = wait_for(node.provisioner, handle, Phase.READY, 60)

    within = [pid for pid in processes.of_replica(handle.replica_id, None) if pid != seen.pid]
    tables = [Path(f"/proc/{within[-1]}/net/{name}").read_text() for name in ("tcp", "tcp6")]
    listening = [row for table in tables for row in table.splitlines()[1:] if " 0A " in row]
    need_walls(node)  # without them, the machine's other programs are in these tables too
    assert listening == []
    node.provisioner.delete(handle)


def test_a_file_that_is_none_says_so(node: Rig) -> None:
    bad = node.home / "bad"
    bad.mkdir()
    (bad / "no.gguf").write_bytes(b"GGUF" + bytes(64))

    handle = node.provisioner.ensure(
        node.spec(**wish(node, model_path=str(bad), model_file="no.gguf"))
    )
    wait_until(lambda: node.provisioner.observe(handle).phase is Phase.EXITED, 30)

    seen = node.provisioner.observe(handle)
    assert seen.reason is Reason.BAD_ARGUMENTS


def test_gpus_take_an_operators_own_command(node: Rig) -> None:
    with pytest.raises(Rejected, match="without a GPU"):
        node.provisioner.ensure(node.spec(**wish(node, gpu_count=1)))
