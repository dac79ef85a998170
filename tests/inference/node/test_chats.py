"""Whether a model can chat is asked of its engine when it is ready, and costs no token."""

from pathlib import Path

import httpx2
import pytest

from inference.engines import ENGINES
from inference.engines.base import Launch, Probe
from inference.node.client import EngineClient
from inference.provisioners.base import Phase
from tests.inference.node.rig import FAKE_ENGINE, rig, wait_for

LAUNCH = Launch(model_path="/m", served_model_name="demo", socket="/s", variant="cpu")
EMBEDS = Launch(
    model_path="/m",
    served_model_name="demo",
    socket="/s",
    variant="cpu",
    settings={"runner": "pooling"},
)


def test_a_base_model_is_ready_and_known_not_to_chat() -> None:
    with rig(f"env FAKE_ENGINE_NO_CHAT_TEMPLATE=1 {FAKE_ENGINE}") as node:
        handle = node.provisioner.ensure(node.spec())
        seen = wait_for(node.provisioner, handle, Phase.READY)
        assert seen.chats is False
        assert seen.probe is not None and seen.probe.requests == 1


def test_who_embeds_is_not_asked() -> None:
    assert ENGINES["vllm"].chat_probe(EMBEDS) is None
    assert ENGINES["vllm"].chat_probe(LAUNCH) is not None


@pytest.mark.parametrize(
    ("status", "text", "chats"),
    [
        (200, "{}", True),
        (400, "As of v4.44, default chat template is no longer allowed, so …", False),
        (400, "something else is wrong", None),
        (404, "Not Found", None),
    ],
)
async def test_only_a_plain_answer_counts(status: int, text: str, chats: bool | None) -> None:
    client = EngineClient(ENGINES["vllm"], Path("/nowhere"))
    await client.close()
    answer = httpx2.MockTransport(lambda request: httpx2.Response(status, text=text))
    client.http = httpx2.AsyncClient(transport=answer, base_url="http://engine")
    assert await client.chats(Probe("/tokenize", {})) is chats
    await client.close()
