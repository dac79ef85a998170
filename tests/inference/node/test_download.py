"""Weights from the hub: fetched by a process of its own, pinned, and only what holds no code."""

from collections.abc import Iterator

import psutil
import pytest

from inference.lifecycle import Stage
from inference.provisioners.base import Handle, Observed, Phase, Reason, Rejected, Spec
from tests.fakes.hub import FakeHub, Repository, tiny_model
from tests.inference.node.rig import Rig, rig, wait_for, wait_until

TOKEN = "hf_alice_0123456789"


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as made:
        yield made


@pytest.fixture
def node(hub: FakeHub) -> Iterator[Rig]:
    with rig(HF_ENDPOINT=hub.url) as made:
        yield made


def of_hub(node: Rig, repository: Repository, **changes: object) -> Spec:
    facts = {"model_id": repository.id, "model_revision": repository.commit, "model_path": ""}
    return node.spec(model_source="hub", **(facts | changes))


def ended(node: Rig, spec: Spec) -> Observed:
    handle = node.provisioner.ensure(spec)
    wait_until(lambda: node.provisioner.observe(handle).phase is Phase.EXITED)
    return node.provisioner.observe(handle)


def downloading(node: Rig, handle: Handle) -> Observed:
    def midway() -> bool:
        seen = node.provisioner.observe(handle)
        return seen.progress is not None and seen.progress.done > 0

    wait_until(midway)
    return node.provisioner.observe(handle)


def big_model() -> dict[str, bytes]:
    return tiny_model() | {"model.safetensors": tiny_model()["model.safetensors"] + bytes(4 << 20)}


def test_a_model_of_the_hub_is_fetched_and_served(node: Rig, hub: FakeHub) -> None:
    files = tiny_model() | {"pytorch_model.bin": b"pickle", "modeling.py": b"import os"}
    repository = hub.add("acme/tiny", files)

    handle = node.provisioner.ensure(of_hub(node, repository))

    wait_for(node.provisioner, handle, Phase.READY)
    names = {path.name for path in (node.home / "models").rglob("*")}
    assert "model.safetensors" in names
    assert not names & {"pytorch_model.bin", "modeling.py"}
    assert not hub.asked("pytorch_model.bin") and not hub.asked("modeling.py")


def test_the_bytes_can_be_watched(node: Rig, hub: FakeHub) -> None:
    repository = hub.add("acme/big", big_model())
    hub.bytes_per_second = 2 << 20

    handle = node.provisioner.ensure(of_hub(node, repository))

    seen = downloading(node, handle)
    assert (seen.phase, seen.stage) == (Phase.PROVISIONING, Stage.DOWNLOADING)
    assert seen.progress is not None and seen.progress.unit == "bytes"
    assert seen.progress.total is not None and seen.progress.total > 4 << 20
    wait_for(node.provisioner, handle, Phase.READY)


def test_a_second_replica_of_the_same_revision_needs_no_network(node: Rig, hub: FakeHub) -> None:
    repository = hub.add("acme/tiny", tiny_model())
    first = node.provisioner.ensure(of_hub(node, repository))
    wait_for(node.provisioner, first, Phase.READY)
    asked = len(hub.requests)

    second = node.provisioner.ensure(of_hub(node, repository))

    wait_for(node.provisioner, second, Phase.READY)
    assert len(hub.requests) == asked


def test_stopping_ends_the_download(node: Rig, hub: FakeHub) -> None:
    repository = hub.add("acme/big", big_model())
    hub.bytes_per_second = 1 << 18
    handle = node.provisioner.ensure(of_hub(node, repository))
    downloading(node, handle)

    node.provisioner.stop(handle)

    wait_until(lambda: node.provisioner.observe(handle).phase is Phase.EXITED)
    assert node.provisioner.observe(handle).reason is Reason.CANCELLED
    assert node.process is not None
    wait_until(lambda: not psutil.Process(node.process.pid).children())


def test_a_download_goes_on_when_the_supervisor_is_back(node: Rig, hub: FakeHub) -> None:
    repository = hub.add("acme/big", big_model())
    hub.bytes_per_second = 2 << 20
    handle = node.provisioner.ensure(of_hub(node, repository))
    downloading(node, handle)

    node.kill()
    node.start()

    wait_for(node.provisioner, handle, Phase.READY)


def test_a_gated_model_comes_with_the_organizations_token(node: Rig, hub: FakeHub) -> None:
    repository = hub.add("acme/gated", big_model(), gated=True)
    hub.tokens[TOKEN] = {"acme/gated"}
    hub.bytes_per_second = 2 << 20

    handle = node.provisioner.ensure(of_hub(node, repository, hub_token=TOKEN))

    downloading(node, handle)
    assert node.process is not None
    processes = [psutil.Process(node.process.pid), *psutil.Process(node.process.pid).children()]
    assert len(processes) > 1
    assert not [p for p in processes if TOKEN in " ".join(p.cmdline())]
    wait_for(node.provisioner, handle, Phase.READY)
    files = [p for p in node.home.rglob("*") if p.is_file()]
    assert not [p for p in files if TOKEN.encode() in p.read_bytes()]


def test_a_token_lost_with_the_supervisor_means_try_again(node: Rig, hub: FakeHub) -> None:
    repository = hub.add("acme/gated", big_model(), gated=True)
    hub.tokens[TOKEN] = {"acme/gated"}
    hub.bytes_per_second = 1 << 18
    handle = node.provisioner.ensure(of_hub(node, repository, hub_token=TOKEN))
    downloading(node, handle)

    node.kill()
    node.start()

    wait_until(lambda: node.provisioner.observe(handle).phase is Phase.EXITED)
    assert node.provisioner.observe(handle).reason is Reason.NODE_LOST


def test_a_gated_model_without_a_token_says_what_to_do(node: Rig, hub: FakeHub) -> None:
    seen = ended(node, of_hub(node, hub.add("acme/gated", tiny_model(), gated=True)))

    assert seen.reason is Reason.BAD_ARGUMENTS
    assert "gated" in seen.message and "token" in seen.message


def test_a_model_with_code_of_its_own_is_refused_before_the_weights_come(
    node: Rig, hub: FakeHub
) -> None:
    repository = hub.add("acme/code", tiny_model(auto_map={"AutoModel": "modeling.Abacus"}))

    seen = ended(node, of_hub(node, repository))

    assert seen.reason is Reason.BAD_ARGUMENTS and "auto_map" in seen.message
    assert not hub.asked("model.safetensors")


def test_a_model_with_only_pickles_is_refused(node: Rig, hub: FakeHub) -> None:
    files = tiny_model()
    files["pytorch_model.bin"] = files.pop("model.safetensors")

    seen = ended(node, of_hub(node, hub.add("acme/pickle", files)))

    assert seen.reason is Reason.BAD_ARGUMENTS and "safetensors" in seen.message


@pytest.mark.parametrize("change", [{"model_id": "acme/none"}, {"model_revision": "0" * 40}])
def test_what_the_hub_does_not_have_is_said(
    node: Rig, hub: FakeHub, change: dict[str, str]
) -> None:
    seen = ended(node, of_hub(node, hub.add("acme/tiny", tiny_model()), **change))

    assert seen.reason is Reason.BAD_ARGUMENTS and "acme/" in seen.message


def test_a_hub_out_of_reach_is_said_and_retryable(hub: FakeHub) -> None:
    repository = hub.add("acme/tiny", tiny_model())
    with rig(HF_ENDPOINT="http://127.0.0.1:9") as node:
        seen = ended(node, of_hub(node, repository))

    assert seen.reason is Reason.BACKEND_UNREACHABLE and "hub" in seen.message


@pytest.mark.parametrize(
    ("breakage", "word"),
    [
        ({"config.json": b'{"auto_map": {"AutoModel": "x.Y"}}'}, "auto_map"),
        ({"config.json": b'{"speculators_config": {}}'}, "speculators_config"),
        ({"config.json": b"{"}, "JSON"),
        ({"config.json": None}, "config.json"),
        ({"model.safetensors": None}, "safetensors"),
    ],
)
def test_a_local_folder_is_held_to_the_same(
    node: Rig, breakage: dict[str, bytes | None], word: str
) -> None:
    for name, content in breakage.items():
        (node.model / name).unlink()
        if content is not None:
            (node.model / name).write_bytes(content)

    with pytest.raises(Rejected, match=word):
        node.provisioner.ensure(node.spec())
