"""An engine that is to end answers what it is answering first, for as long as its grace lasts."""

import threading
import time

import httpx2
import pytest

from inference.node.drain import drains_for
from inference.provisioners.base import Handle, Phase
from tests.inference.node.rig import Rig, rig, wait_for, wait_until


class Call:
    """A stream from the engine, taken in beside the test."""

    def __init__(self, address: str, tokens: int) -> None:
        self.text = ""
        self.broken = False
        self._address, self._tokens = address.removeprefix("unix:"), tokens
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()
        wait_until(lambda: "content" in self.text)

    def end(self) -> str:
        self._thread.join(30)
        return self.text

    def _listen(self) -> None:
        body = {
            "model": "acme-chat",
            "stream": True,
            "messages": [{"role": "user", "content": f"[[fake tokens={self._tokens} delay=0.05]]"}],
        }
        transport = httpx2.HTTPTransport(uds=self._address)
        with httpx2.Client(transport=transport, timeout=30) as client:
            url = "http://engine/v1/chat/completions"
            try:
                with client.stream("POST", url, json=body) as answer:
                    for text in answer.iter_text():
                        self.text += text
            except httpx2.TransportError:
                self.broken = True


def up(node: Rig) -> tuple[Handle, str]:
    handle = node.provisioner.ensure(node.spec())
    return handle, wait_for(node.provisioner, handle, Phase.READY).address


@pytest.fixture(scope="module")
def node():
    with rig() as made:
        yield made


def test_what_it_is_answering_is_answered_before_it_ends(node: Rig) -> None:
    handle, address = up(node)
    call = Call(address, tokens=60)  # three seconds

    node.provisioner.stop(handle, grace=30.0)

    assert call.end().rstrip().endswith("[DONE]")
    assert not call.broken
    wait_for_exit(node, handle)


def test_it_ends_soon_where_nothing_is_under_way(node: Rig) -> None:
    handle, _address = up(node)
    began = time.monotonic()

    node.provisioner.stop(handle, grace=300.0)

    wait_for_exit(node, handle)
    assert time.monotonic() - began < 10


def test_its_grace_ends_what_would_last_longer(node: Rig) -> None:
    handle, address = up(node)
    call = Call(address, tokens=1000)

    node.provisioner.stop(handle, grace=1.0)

    wait_for_exit(node, handle)
    assert "[DONE]" not in call.end()


def test_who_is_more_in_haste_cuts_the_grace(node: Rig) -> None:
    handle, address = up(node)
    call = Call(address, tokens=1000)

    node.provisioner.stop(handle, grace=300.0)
    node.provisioner.stop(handle, grace=1.0)

    wait_for_exit(node, handle)
    assert "[DONE]" not in call.end()


def wait_for_exit(node: Rig, handle: Handle) -> None:
    wait_until(lambda: node.provisioner.observe(handle).phase is Phase.EXITED)


@pytest.mark.parametrize(("grace", "drains"), [(300, 290), (30, 20), (5, 2.5), (0, 0)])
def test_some_of_the_grace_is_kept_for_the_end_itself(grace: float, drains: float) -> None:
    assert drains_for(grace) == drains
