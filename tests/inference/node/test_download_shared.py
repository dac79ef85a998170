"""One download for all replicas that want it, and room made for it on the disk."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from inference.node import stock
from inference.node.downloads import Downloads, Tell
from inference.node.fetch import NoRoom
from inference.node.store import Choice
from inference.provisioners.base import Phase, Progress, Reason, Spec
from portal.lib.env import read
from tests.fakes.hub import FakeHub, Repository, tiny_model
from tests.inference.node.rig import Rig, rig, wait_for, wait_until
from tests.inference.node.stocking import choice, replica, stock_up

TOKEN = "hf_alice_0123456789"
WEIGHTS = "model.safetensors"


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as made:
        yield made


@pytest.fixture
def node(hub: FakeHub) -> Iterator[Rig]:
    with rig(HF_ENDPOINT=hub.url) as made:
        yield made


def big(hub: FakeHub, **facts: object) -> Repository:
    files = tiny_model()
    return hub.add("acme/big", files | {WEIGHTS: files[WEIGHTS] + bytes(6 << 20)}, **facts)


def of_hub(node: Rig, repository: Repository, **changes: object) -> Spec:
    facts = {"model_id": repository.id, "model_revision": repository.commit, "model_path": ""}
    return node.spec(model_source="hub", **(facts | changes))


def test_two_replicas_wait_for_one_download_and_both_see_it(node: Rig, hub: FakeHub) -> None:
    repository = big(hub)
    hub.bytes_per_second = 2 << 20
    handles = [node.provisioner.ensure(of_hub(node, repository)) for _ in range(2)]

    def both_see() -> bool:
        shown = [node.provisioner.observe(handle).progress for handle in handles]
        return all(p and p.done > 1 << 20 and p.seconds_left for p in shown)

    wait_until(both_see)
    for handle in handles:
        wait_for(node.provisioner, handle, Phase.READY)
    assert hub.sent[WEIGHTS] == len(repository.files[WEIGHTS])


def test_who_waits_takes_over_from_one_that_is_stopped(node: Rig, hub: FakeHub) -> None:
    repository = big(hub)
    hub.bytes_per_second = 2 << 20
    first, second = (node.provisioner.ensure(of_hub(node, repository)) for _ in range(2))
    wait_until(lambda: hub.sent[WEIGHTS] > 1 << 20)

    node.provisioner.stop(first)

    wait_for(node.provisioner, second, Phase.READY)
    assert node.provisioner.observe(first).reason is Reason.CANCELLED
    assert hub.sent[WEIGHTS] < 1.5 * len(repository.files[WEIGHTS])


def test_who_waits_asks_with_a_token_of_its_own(node: Rig, hub: FakeHub) -> None:
    repository = hub.add("acme/gated", tiny_model(), gated=True)
    hub.tokens[TOKEN] = {"acme/gated"}

    without = node.provisioner.ensure(of_hub(node, repository))
    with_one = node.provisioner.ensure(of_hub(node, repository, hub_token=TOKEN))

    wait_for(node.provisioner, with_one, Phase.READY)
    assert "gated" in node.provisioner.observe(without).message


def test_a_chosen_gguf_is_served(node: Rig, hub: FakeHub) -> None:
    files = {"config.json": b"{}", "q4.gguf": b"GGUF four", "q8.gguf": b"GGUF eight"}
    repository = hub.add("acme/gguf", files)

    handle = node.provisioner.ensure(of_hub(node, repository, model_file="q4.gguf"))

    wait_for(node.provisioner, handle, Phase.READY)
    assert set(hub.sent) == {"config.json", "q4.gguf"}


def test_models_unused_for_long_go_while_the_node_runs(hub: FakeHub) -> None:
    with rig(HF_ENDPOINT=hub.url, MODELPORT_MODELS_KEPT_DAYS="30") as node:
        used = hub.add("acme/used", tiny_model())
        handle = node.provisioner.ensure(of_hub(node, used))
        wait_for(node.provisioner, handle, Phase.READY)
        node.kill()
        stock_up(node.home, Choice("acme/used", used.commit), used.files, days_ago=31)
        stock_up(node.home, choice("acme/new"), tiny_model(), days_ago=29)
        stock_up(node.home, choice("acme/old"), tiny_model(), days_ago=31)

        node.start()

        def names() -> list[str]:
            return [one.choice.repository for one in stock.listing(node.home)]

        wait_until(lambda: names() == ["acme/new", "acme/used"])
        wait_for(node.provisioner, handle, Phase.READY)


# Room


class Cramped(Downloads):
    """A fetcher that lacks bytes on the disk until a model is gone."""

    def __init__(self, home: Path, short: int, until_gone: Choice) -> None:
        super().__init__(replace(read({}), home=home))
        self.short, self.until_gone, self.runs = short, until_gone, 0

    async def _run(self, choice: Choice, token: str, tell: Tell) -> str:
        self.runs += 1
        if self.until_gone in [one.choice for one in stock.listing(self.env.home)]:
            raise NoRoom(self.short, "The model needs more.")
        return "/a/folder"


def ask(downloads: Downloads) -> str:
    def tell(progress: Progress) -> None:
        raise AssertionError(progress)

    return asyncio.run(downloads.fetch(choice("acme/wanted"), "", tell))


def test_a_download_without_room_drops_what_nobody_uses(tmp_path: Path) -> None:
    stock_up(tmp_path, choice("acme/old"), tiny_model(), days_ago=2)
    stock_up(tmp_path, choice("acme/new"), tiny_model(), days_ago=1)

    assert ask(Cramped(tmp_path, 100, choice("acme/old"))) == "/a/folder"

    assert [one.choice.repository for one in stock.listing(tmp_path)] == ["acme/new"]


@pytest.mark.parametrize("short", [100, 10**9])
def test_a_download_without_room_says_so_when_all_is_used(tmp_path: Path, short: int) -> None:
    stock_up(tmp_path, choice("acme/old"), tiny_model(), days_ago=2)
    replica(tmp_path, choice("acme/old"))
    downloads = Cramped(tmp_path, short, choice("acme/old"))

    with pytest.raises(NoRoom, match="needs more"):
        ask(downloads)

    assert downloads.runs == 1
    assert [one.choice.repository for one in stock.listing(tmp_path)] == ["acme/old"]
