"""The playground's websocket: one per tab, several answers at once, told apart by their id.

Client to server, JSON objects: `start` and `stop` (see `generation`). Server to client, JSON arrays
of events `{id, seq, t: "start" | "wait" | "d" | "end" | "err", …}`; `seq` grows by one per answer.
Nothing that is said here is logged or stored.
"""

import asyncio
import time
from collections import deque
from contextlib import aclosing
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import httpx2
import msgspec
from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer
from django.conf import settings
from django.core.exceptions import PermissionDenied
from django.utils import translation
from django.utils.translation import gettext as _

from accounts.models import ApiKey, Membership, Organization
from accounts.roles import Permission
from inference.playground import generation
from inference.playground.generation import Start, Stop
from portal.lib.ids import uuid7

MESSAGE_BYTES = 2 * 1024 * 1024
AT_ONCE = 4  # answers that one tab may have running
PER_MINUTE = 60  # messages that one tab may send
# Close codes; a page cannot see an HTTP status once the socket is open.
SIGNED_OUT, FORBIDDEN, NOT_FOUND, TOO_BIG = 4401, 4403, 4404, 4413

_decode = msgspec.json.Decoder(Start | Stop).decode


class PlaygroundConsumer(AsyncWebsocketConsumer):
    """A tab's socket. It lives as long as its person may use the organization."""

    async def connect(self) -> None:
        self.running: dict[str, asyncio.Task[None]] = {}
        self.recent: deque[float] = deque(maxlen=PER_MINUTE)
        self.key: ApiKey | None = None
        self.gone = False
        translation.activate(self._language())
        self.client = httpx2.AsyncClient(base_url=settings.GATEWAY_URL, trust_env=False)
        await self.accept()
        refusal = await self._refusal()
        if refusal:
            await self.close(refusal)

    async def disconnect(self, code: int) -> None:
        self.gone = True
        for task in self.running.values():
            task.cancel()
        await asyncio.gather(*self.running.values(), return_exceptions=True)
        await self.client.aclose()
        if self.key is not None:
            await self._end_key(self.key.id)

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        if text_data is None or len(text_data) > MESSAGE_BYTES:
            await self.close(TOO_BIG)
            return
        refusal = await self._refusal()  # signed out or removed since the last message?
        if refusal:
            await self.close(refusal)
            return
        if self._too_fast():
            await self._refuse(_("Too many messages at once. Please wait a moment."))
            return
        try:
            message = _decode(text_data)
        except msgspec.DecodeError:
            await self._refuse(_("The playground did not understand that request."))
            return
        match message:
            case Start():
                await self._start(message)
            case Stop() if task := self.running.get(message.id):
                task.cancel()

    async def _start(self, start: Start) -> None:
        if len(self.running) >= AT_ONCE:
            await self._refuse(
                _("This tab has several answers running. Stop one of them first."), start.slot
            )
            return
        try:
            if self.key is None or self.key.about_to_expire():
                await self._new_key()
        except PermissionDenied:  # the role was lowered a moment ago
            await self.close(FORBIDDEN)
            return
        answer = uuid7().hex
        await self._send([{"t": "start", "slot": start.slot, "id": answer, "seq": 0}])
        self.running[answer] = asyncio.create_task(self._answer(answer, start))

    async def _answer(self, answer: str, start: Start) -> None:
        seq = 0
        began = time.monotonic()
        try:
            async with aclosing(generation.events(self.client, self.plain_key, start)) as events:
                async for event in events:
                    seq += 1
                    await self._send([event | {"id": answer, "seq": seq}])
        except asyncio.CancelledError:
            # Stopped by the reader. On a closed socket there is nobody left to tell.
            event = {"t": "end", "finish": "stopped", "id": answer, "seq": seq + 1}
            event["duration_ms"] = round((time.monotonic() - began) * 1000)
            if not self.gone:
                await self._send([event])
        finally:
            self.running.pop(answer, None)

    async def _send(self, events: list[dict[str, Any]]) -> None:
        await self.send(msgspec.json.encode(events).decode())

    async def _refuse(self, message: str, slot: str = "") -> None:
        await self._send([{"t": "err", "id": "", "seq": 0, "slot": slot, "message": message}])

    def _language(self) -> str:
        """The reader's language, found as Django's LocaleMiddleware finds it for pages."""
        headers = dict(self.scope["headers"])
        request = SimpleNamespace(
            COOKIES=self.scope.get("cookies", {}),
            META={"HTTP_ACCEPT_LANGUAGE": headers.get(b"accept-language", b"").decode("latin1")},
        )
        return translation.get_language_from_request(request)  # type: ignore[arg-type]

    def _too_fast(self) -> bool:
        now = time.monotonic()
        full = len(self.recent) == PER_MINUTE and now - self.recent[0] < 60
        if not full:
            self.recent.append(now)
        return full

    @database_sync_to_async
    def _refusal(self) -> int | None:
        """The close code for someone who may not be here (any more), else None."""
        user = self.scope["user"]
        session = self.scope["session"]
        if not user.is_authenticated or not session.exists(session.session_key):
            return SIGNED_OUT
        membership = (
            Membership.objects.select_related("organization")
            .filter(user=user, organization__slug=self.scope["url_route"]["kwargs"]["org"])
            .first()
        )
        if membership is None:
            return NOT_FOUND
        if not membership.allows(Permission.USE):
            return FORBIDDEN
        self.organization: Organization = membership.organization
        return None

    @database_sync_to_async
    def _new_key(self) -> None:
        former = self.key
        self.key, self.plain_key = ApiKey.playground(self.organization, self.scope["user"])
        if former is not None:
            self._revoke(former.id)

    @database_sync_to_async
    def _end_key(self, key_id: UUID) -> None:
        self._revoke(key_id)

    def _revoke(self, key_id: UUID) -> None:
        ApiKey.objects.get(id=key_id).revoke(by=self.scope["user"])
