"""Who may open the playground's websocket, and what it does with what it is told."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from asgiref.testing import ApplicationCommunicator
from django.conf import settings
from django.test import Client

from accounts.models import ApiKey, Organization, User
from accounts.roles import Role
from portal.asgi import application
from tests.cast import signed_in

pytestmark = pytest.mark.django_db(transaction=True)
PATH = "/ws/o/acme/playground/"
START = {
    "t": "start",
    "slot": "one",
    "model": "demo",
    "messages": [{"role": "user", "content": "Hello"}],
}


class Socket(ApplicationCommunicator):
    """A browser's side of the websocket, in ASGI's messages."""

    async def say(self, message: object) -> None:
        await self.send_input({"type": "websocket.receive", "text": json.dumps(message)})

    async def hear(self) -> dict[str, Any]:
        """The next event."""
        return json.loads((await self.receive_output(timeout=5))["text"])[0]

    async def closing(self) -> int:
        """The code with which the server closes."""
        output = await self.receive_output(timeout=5)
        assert output["type"] == "websocket.close"
        return int(output["code"])


@asynccontextmanager
async def socket(
    client: Client | None = None, origin: str | None = "http://testserver"
) -> AsyncIterator[tuple[Socket, bool]]:
    headers = [(b"host", b"testserver")]
    if origin is not None:
        headers.append((b"origin", origin.encode()))
    if client is not None:
        cookie = client.cookies[settings.SESSION_COOKIE_NAME].value
        headers.append((b"cookie", f"{settings.SESSION_COOKIE_NAME}={cookie}".encode()))
    scope = {"type": "websocket", "path": PATH, "query_string": b"", "headers": headers}
    opened = Socket(application, scope)
    await opened.send_input({"type": "websocket.connect"})
    connected = (await opened.receive_output(timeout=5))["type"] == "websocket.accept"
    try:
        yield opened, connected
    finally:
        await opened.send_input({"type": "websocket.disconnect", "code": 1005})
        await opened.wait()


@pytest.mark.parametrize("origin", [None, "http://evil.example", "null", "https://testserver:1"])
async def test_other_sites_are_refused(alice: User, acme: Organization, origin: str | None) -> None:
    client = await sync_to_async(signed_in)(alice)
    async with socket(client, origin) as (_, connected):
        assert not connected


async def test_a_member_gets_a_short_lived_key_that_ends_with_the_tab(
    bob: User, acme: Organization
) -> None:
    client = await sync_to_async(signed_in)(bob)
    async with socket(client) as (communicator, connected):
        assert connected
        assert not await ApiKey.objects.aexists()  # a tab that asks nothing needs none
        await communicator.say(START)
        assert (await communicator.hear())["t"] == "start"
        assert (await communicator.hear())["t"] == "err"  # no gateway runs here
        key = await ApiKey.objects.aget(kind=ApiKey.Kind.PLAYGROUND)
        assert key.expires_at is not None
        assert key.revoked_at is None
    await key.arefresh_from_db()
    assert key.revoked_at is not None


async def test_strangers_viewers_and_nobody_are_closed(
    charlie: User, bob: User, acme: Organization
) -> None:
    await bob.memberships.aupdate(role=Role.VIEWER)
    for user, code in ((charlie, 4404), (bob, 4403), (None, 4401)):
        client = await sync_to_async(signed_in)(user) if user else None
        async with socket(client) as (communicator, _):
            assert await communicator.closing() == code
    assert not await ApiKey.objects.filter(kind=ApiKey.Kind.PLAYGROUND).aexists()


async def test_who_is_removed_is_closed_at_the_next_word(bob: User, acme: Organization) -> None:
    client = await sync_to_async(signed_in)(bob)
    async with socket(client) as (communicator, _):
        await bob.memberships.all().adelete()
        await communicator.say({"t": "stop", "id": "x"})
        assert await communicator.closing() == 4404


async def test_a_gateway_that_is_away_is_told_in_words(alice: User, acme: Organization) -> None:
    client = await sync_to_async(signed_in)(alice)
    async with socket(client) as (communicator, _):
        await communicator.say(START)
        begun = await communicator.hear()
        assert (begun["t"], begun["slot"]) == ("start", "one")
        ended = await communicator.hear()
        assert (ended["t"], ended["id"], ended["seq"]) == ("err", begun["id"], 1)
        assert "cannot be reached" in ended["message"]


@pytest.mark.parametrize(
    "change",
    [
        {"params": {"temperature": 9}},
        {"params": {"chat_template": "x"}},
        {"messages": []},
        {"messages": [{"role": "system", "content": "x"}]},
        {"extra": 1},
    ],
)
async def test_what_is_not_on_the_list_is_refused(
    alice: User, acme: Organization, change: dict[str, object]
) -> None:
    client = await sync_to_async(signed_in)(alice)
    async with socket(client) as (communicator, _):
        await communicator.say(START | change)
        assert "did not understand" in (await communicator.hear())["message"]
