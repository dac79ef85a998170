"""LoRA adapters on a machine: fetched, checked, shown within the walls, loaded, let go."""

import json
import re
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock
from uuid import uuid4

import httpx2
import pytest

from inference.engines import ENGINES
from inference.node import adapters, stock
from inference.node.adapters import Adapters
from inference.node.record import AdapterRecord, AdapterStep, Record, load
from inference.node.store import Choice
from inference.node.weights import WeightsProblem
from inference.provisioners.base import (
    AdapterPhase,
    AdapterSeen,
    AdapterSpec,
    Figures,
    Handle,
    Phase,
    Reason,
)
from tests.fakes.hub import FakeHub, Repository, tiny_adapter, write_files
from tests.inference.node.rig import Rig, rig, spec, wait_for, wait_until

TOKEN = "hf_alice_0123456789"
LORA = {"enable_lora": True}
LOADED, LOADING, FAILED = AdapterPhase.LOADED, AdapterPhase.LOADING, AdapterPhase.FAILED


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as made:
        yield made


@pytest.fixture
def node(hub: FakeHub) -> Iterator[Rig]:
    with rig(HF_ENDPOINT=hub.url) as made:
        yield made


def up(node: Rig, **settings: object) -> Handle:
    handle = node.provisioner.ensure(node.spec(settings=LORA | settings))
    wait_for(node.provisioner, handle, Phase.READY)
    return handle


def of_hub(repository: Repository, name: str = "tone", **changes: str) -> AdapterSpec:
    facts = {
        "adapter_id": str(uuid4()),
        "name": name,
        "source": "hub",
        "model_id": repository.id,
        "model_revision": repository.commit,
    }
    return AdapterSpec(**(facts | changes))


def of_folder(folder: Path, name: str = "tone") -> AdapterSpec:
    return AdapterSpec(
        adapter_id=str(uuid4()),
        name=name,
        source="local",
        model_id="tone",
        model_revision="",
        path=str(folder),
    )


def settled(node: Rig, handle: Handle, count: int = 1) -> list[AdapterSeen]:
    """What is seen of them, once each has been loaded or has failed."""

    def done() -> bool:
        seen = node.provisioner.observe(handle).adapters
        return len(seen) == count and all(one.phase in {LOADED, FAILED} for one in seen)

    wait_until(done)
    return node.provisioner.observe(handle).adapters


def ask(node: Rig, handle: Handle, model: str) -> int:
    """The status of a question to this name, straight to the engine."""
    socket = node.provisioner.observe(handle).address.removeprefix("unix:")
    with httpx2.Client(transport=httpx2.HTTPTransport(uds=socket), base_url="http://e") as client:
        body = {"model": model, "prompt": "Hello"}
        return client.post("/v1/completions", json=body).status_code


def test_an_adapter_of_the_hub_is_fetched_and_answers_by_its_name(node: Rig, hub: FakeHub) -> None:
    files = {"training_args.bin": b"pickle", "run.py": b"import os", "checkpoint/a.json": b"{}"}
    repository = hub.add("acme/tone", tiny_adapter() | files)
    handle, wanted = up(node), of_hub(repository)
    assert ask(node, handle, "tone") == 404

    node.provisioner.adapters(handle, [wanted])

    assert [one.phase for one in settled(node, handle)] == [LOADED]
    assert ask(node, handle, "tone") == 200
    assert ask(node, handle, "acme-chat") == 200
    folder = node.home / "instances" / handle.replica_id / "adapters" / wanted.adapter_id
    names = {"adapter_config.json", "adapter_model.safetensors"}
    assert {path.name for path in folder.iterdir()} == names
    assert not any(hub.asked(name) for name in files)
    node.provisioner.adapters(handle, [])
    wait_until(lambda: node.provisioner.observe(handle).adapters == [])
    assert ask(node, handle, "tone") == 404
    assert folder.exists(), "a request that is under way may still need it"


def test_what_an_adapter_was_fetched_for_is_not_removed(node: Rig, hub: FakeHub) -> None:
    repository = hub.add("acme/tone", tiny_adapter())
    handle, wanted = up(node), of_hub(repository)
    node.provisioner.adapters(handle, [wanted])
    settled(node, handle)

    assert stock.users(node.home) == {stock.choice_of_adapter(wanted): [handle.instance_id]}
    assert stock.clean(node.home, timedelta(0)) == []
    node.provisioner.stop(handle, grace=1)
    wait_until(lambda: node.provisioner.observe(handle).phase is Phase.EXITED)
    assert [one.choice.repository for one in stock.clean(node.home, timedelta(0))] == ["acme/tone"]
    assert not (node.home / "instances" / handle.replica_id / "adapters").exists()


def test_a_gated_one_takes_a_token_that_is_never_written_down(node: Rig, hub: FakeHub) -> None:
    repository = hub.add("acme/tone", tiny_adapter(), gated=True)
    hub.tokens[TOKEN] = {"acme/tone"}
    handle = up(node)

    node.provisioner.adapters(
        handle, [of_hub(repository, "bare"), of_hub(repository, hub_token=TOKEN)]
    )

    without, with_token = settled(node, handle, 2)
    assert without.phase is FAILED and "gated" in without.message
    assert with_token.phase is LOADED
    written = [path for path in (node.home / "instances").rglob("*") if path.is_file()]
    assert not any(TOKEN.encode() in path.read_bytes() for path in written)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (tiny_adapter(r=64), "rank is 64"),
        (tiny_adapter(width=32), "another model"),
        (tiny_adapter(layer=7), "another model"),
        (tiny_adapter(auto_map={"AutoModel": "evil.Model"}), "code of its own"),
        (tiny_adapter() | {"adapter_model.safetensors": b"\xff" * 64}, "no safetensors"),
        (tiny_adapter() | {"adapter_config.json": b"[]"}, "no LoRA adapter"),
        ({"adapter_config.json": b"{}"}, "no adapter_model.safetensors"),
        (tiny_adapter(fake_refuses=True), "The engine refuses it: .* …/"),
    ],
)
def test_one_that_does_not_fit_says_why_and_harms_nobody(
    node: Rig, tmp_path: Path, files: dict[str, bytes], words: str
) -> None:
    handle = up(node)
    good = of_folder(write_files(tmp_path / "good", tiny_adapter()))
    bad = of_folder(write_files(tmp_path / "bad", files), "bad")

    node.provisioner.adapters(handle, [bad, good])

    first, second = settled(node, handle, 2)
    assert first.phase is FAILED
    assert re.search(words, first.message), first.message
    assert second.phase is LOADED
    assert ask(node, handle, "tone") == 200 and ask(node, handle, "bad") == 404
    assert node.provisioner.observe(handle).phase is Phase.READY


class AwayOnce:
    """A hub that answers from the second question on."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked = folder, 0

    async def fetch(self, choice: Choice, token: str, tell: object) -> str:
        self.asked += 1
        if self.asked == 1:
            raise WeightsProblem(Reason.BACKEND_UNREACHABLE, "The hub does not answer.")
        return str(self.folder)


async def test_a_hub_that_is_away_is_asked_again_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = a_record(tmp_path, Phase.LOADING)
    hub = AwayOnce(write_files(tmp_path / "tone", tiny_adapter()))
    kept = made(record, tmp_path, hub)
    repository = Repository("acme/tone", {})

    async def go_on() -> AdapterRecord:
        kept.go_on()
        if kept.task is not None:
            await kept.task
        return record.adapters[0]

    kept.want([of_hub(repository)])
    first = await go_on()
    assert (first.step, first.message) == (AdapterStep.WANTED, "The hub does not answer.")
    assert (await go_on()).step is AdapterStep.WANTED
    assert hub.asked == 1
    later = time.monotonic() + adapters.TRY_AGAIN
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert (await go_on()).step is AdapterStep.HERE


def test_a_restarted_supervisor_goes_on_with_them(node: Rig, hub: FakeHub, tmp_path: Path) -> None:
    gated = hub.add("acme/gated", tiny_adapter(), gated=True)
    hub.tokens[TOKEN] = {"acme/gated"}
    hub.delay = 0.3
    handle = up(node)
    first = of_folder(write_files(tmp_path / "first", tiny_adapter()), "first")
    second = of_hub(gated, "second", hub_token=TOKEN)
    node.provisioner.adapters(handle, [first])
    settled(node, handle)
    node.provisioner.adapters(handle, [first, second])

    node.kill()
    node.start()

    seen = {one.adapter_id: one.phase for one in node.provisioner.observe(handle).adapters}
    assert seen == {first.adapter_id: LOADED, second.adapter_id: LOADING}
    assert ask(node, handle, "first") == 200
    node.provisioner.adapters(handle, [first, second])  # with the token, which it has lost
    assert [one.phase for one in settled(node, handle, 2)] == [LOADED, LOADED]
    assert ask(node, handle, "second") == 200


def test_a_supervisor_that_missed_the_engines_answer_asks_what_it_has(
    node: Rig, tmp_path: Path
) -> None:
    handle = up(node)
    wanted = of_folder(write_files(tmp_path / "tone", tiny_adapter()))
    node.provisioner.adapters(handle, [wanted])
    settled(node, handle)
    node.kill()
    folder = node.home / "instances" / handle.replica_id
    record = load(folder)
    record.adapters[0].step = AdapterStep.HERE
    record.save(folder)

    node.start()

    assert [one.phase for one in settled(node, handle)] == [LOADED]


def test_without_walls_they_are_served_too(tmp_path: Path) -> None:
    with rig(ENGINE_WALLS="off") as node:
        handle = up(node)
        wanted = of_folder(write_files(tmp_path / "tone", tiny_adapter()))
        node.provisioner.adapters(handle, [wanted])
        assert [one.phase for one in settled(node, handle)] == [LOADED]


# Without an engine


def a_record(folder: Path, phase: Phase) -> Record:
    return Record(
        spec=spec(folder, settings=LORA), variant="cpu", gpu_indices=[], memory_bytes=0, phase=phase
    )


def made(record: Record, folder: Path, fetcher: Any) -> Adapters:
    client: Any = AsyncMock()
    return Adapters(record, folder, lambda: client, ENGINES["vllm"], fetcher, lambda: None)


@pytest.fixture
def off(tmp_path: Path) -> Callable[..., bool]:
    def gone(ago: timedelta, *, running: int = 0, figures: bool = True) -> bool:
        record = a_record(tmp_path, Phase.READY)
        record.ready_at = datetime.now(UTC)
        record.figures = Figures(process="1", running=running) if figures else None
        wanted = of_folder(tmp_path)
        one = AdapterRecord(spec=wanted, step=AdapterStep.OFF, off_at=datetime.now(UTC) - ago)
        record.adapters = [one]
        folder = write_files(tmp_path / "adapters" / wanted.adapter_id, tiny_adapter())
        made(record, tmp_path, None).go_on()
        assert folder.exists() is bool(record.adapters)
        return not record.adapters

    return gone


def test_files_go_once_no_request_can_need_them(off: Callable[..., bool]) -> None:
    a_while, long = adapters.LINGERS * 2, adapters.LINGERS_AT_MOST * 2
    assert off(a_while)
    assert not off(timedelta(0))
    assert not off(a_while, running=1)
    assert not off(a_while, figures=False)
    assert off(long, running=1)


def test_a_record_of_before_can_be_read(tmp_path: Path) -> None:
    record = Record(spec=spec(tmp_path), variant="cpu", gpu_indices=[], memory_bytes=0)
    record.save(tmp_path)
    kept = json.loads((tmp_path / "state.json").read_text())
    del kept["adapters"]
    (tmp_path / "state.json").write_text(json.dumps(kept))
    assert load(tmp_path).adapters == []
