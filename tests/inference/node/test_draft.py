"""A model and its draft model: both fetched, counted, kept and shown to the engine."""

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import msgspec
import psutil
import pytest

from inference.node import stock
from inference.node.record import load
from inference.node.store import Choice
from inference.provisioners.base import Draft, Phase, Reason, Rejected, Spec
from tests.fakes.hub import FakeHub, Repository, tiny_model
from tests.inference.node.rig import Rig, rig, wait_for, wait_until, write_model
from tests.inference.node.stocking import choice, replica

GUESSING = {"speculation": "draft_model"}
TOKEN = "hf_alice_0123456789"


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as made:
        yield made


@pytest.fixture
def node(hub: FakeHub) -> Iterator[Rig]:
    with rig(HF_ENDPOINT=hub.url) as made:
        yield made


def of_hub(repository: Repository) -> Draft:
    return Draft(source="hub", model_id=repository.id, revision=repository.commit)


def of_folder(folder: Path, name: str = "small") -> Draft:
    return Draft(source="local", model_id=name, revision="", path=str(folder))


def told(node: Rig, pid: int | None) -> dict[str, object]:
    """What the engine was told of speculation."""
    lines = [p.cmdline() for p in psutil.Process(pid).children(recursive=True)]
    line = next(line for line in lines if "--speculative-config" in line)
    config: dict[str, object] = json.loads(line[line.index("--speculative-config") + 1])
    return config


def ended(node: Rig, spec: Spec) -> tuple[Reason | None, str]:
    handle = node.provisioner.ensure(spec)
    wait_until(lambda: node.provisioner.observe(handle).phase is Phase.EXITED)
    seen = node.provisioner.observe(handle)
    return seen.reason, seen.message


def weights(files: dict[str, bytes]) -> int:
    return len(files["model.safetensors"])


def test_both_are_fetched_kept_and_counted(node: Rig, hub: FakeHub) -> None:
    small = tiny_model() | {"model.safetensors": tiny_model()["model.safetensors"] + bytes(999)}
    big, little = hub.add("acme/big", tiny_model()), hub.add("acme/little", small)
    wanted = node.spec(
        model_source="hub",
        model_id=big.id,
        model_revision=big.commit,
        model_path="",
        settings=GUESSING,
        draft=of_hub(little),
    )

    handle = node.provisioner.ensure(wanted)

    seen = wait_for(node.provisioner, handle, Phase.READY)
    assert [event.reason for event in node.provisioner.events(handle)].count("downloading") == 1
    record = load(node.home / "instances" / handle.replica_id)
    assert told(node, seen.pid)["model"] == record.draft_weights
    assert Path(record.draft_weights).resolve().name == little.commit
    assert record.memory_bytes == weights(tiny_model()) + weights(small)
    used = {one.choice: one.users for one in stock.listing(node.home)}
    both = [Choice("acme/big", big.commit), Choice("acme/little", little.commit)]
    assert used == dict.fromkeys(both, (wanted.instance_id,))
    assert stock.clean(node.home, timedelta(0)) == []

    node.provisioner.stop(handle, 5.0)
    wait_until(lambda: node.provisioner.observe(handle).phase is Phase.EXITED)
    assert [one.choice for one in stock.clean(node.home, timedelta(0))] == both


def test_the_engine_sees_both_and_may_write_neither(node: Rig) -> None:
    machine = node.provisioner.check().nodes[0]
    if machine.walls is None or not machine.walls.up:
        pytest.skip("no walls here")
    write_model(node.home / "small")

    handle = node.provisioner.ensure(
        node.spec(settings=GUESSING, draft=of_folder(node.home / "small"))
    )

    seen = wait_for(node.provisioner, handle, Phase.READY)
    engine = psutil.Process(seen.pid).children(recursive=True)[-1]
    text = Path(f"/proc/{engine.pid}/mountinfo").read_text()
    mounts = [line.split() for line in text.splitlines()]
    shown = {row[4]: row[5].split(",") for row in mounts}
    for folder in (node.model, node.home / "small"):
        assert "ro" in shown[str(folder.resolve())]
        assert Path(f"/proc/{engine.pid}/root{folder.resolve()}/model.safetensors").exists()


def test_a_gated_draft_model_needs_the_token_too(node: Rig, hub: FakeHub) -> None:
    gated = hub.add("acme/gated", tiny_model(), gated=True)
    hub.tokens[TOKEN] = {gated.id}
    wanted = {"settings": GUESSING, "draft": of_hub(gated)}

    reason, message = ended(node, node.spec(**wanted))
    handle = node.provisioner.ensure(node.spec(**wanted, hub_token=TOKEN))

    assert reason is Reason.BAD_ARGUMENTS and "acme/gated is gated" in message
    wait_for(node.provisioner, handle, Phase.READY)


def test_a_draft_model_with_code_of_its_own_is_refused(node: Rig, hub: FakeHub) -> None:
    wicked = hub.add("acme/wicked", tiny_model(auto_map={"AutoModel": "modeling.Wicked"}))

    reason, message = ended(node, node.spec(settings=GUESSING, draft=of_hub(wicked)))

    assert reason is Reason.BAD_ARGUMENTS and "code of its own" in message


def test_where_it_lies_must_not_mislead_the_engine(node: Rig) -> None:
    folder = node.home / "eagle3-models" / "small"
    write_model(folder)

    reason, message = ended(node, node.spec(settings=GUESSING, draft=of_folder(folder)))

    assert reason is Reason.BAD_ARGUMENTS and "has “eagle3” in its name" in message


def test_a_pair_that_does_not_go_together_is_refused_at_once(node: Rig) -> None:
    for wanted in (
        node.spec(settings=GUESSING),
        node.spec(draft=of_folder(node.model)),
        node.spec(settings=GUESSING, draft=of_folder(node.home / "nowhere")),
    ):
        with pytest.raises(Rejected) as refused:
            node.provisioner.ensure(wanted)
        assert refused.value.reason is Reason.BAD_ARGUMENTS


def test_it_is_stocked_once_both_are_there(tmp_path: Path) -> None:
    record = replica(tmp_path, choice("acme/big"))
    record.weights = "/models/big"
    assert record.is_stocked

    other = choice("acme/little")
    draft = Draft(source="hub", model_id=other.repository, revision=other.revision)
    record.spec = msgspec.structs.replace(record.spec, draft=draft)
    assert not record.is_stocked
    record.draft_weights = "/models/little"
    assert record.is_stocked
