"""Over HTTP: the API, the pages, and the control of what goes wrong. An ASGI application."""

import asyncio
import hmac
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qsl

from billing.localstripe import control, pages
from billing.localstripe.api import Answer, Api
from billing.localstripe.delivery import Deliverer
from billing.localstripe.errors import ApiError
from billing.localstripe.resources import cards, checkout
from billing.localstripe.world import World

LARGEST_BODY = 1_000_000  # bytes
HTML = "text/html; charset=utf-8"
SAFE = {
    "content-security-policy": (
        "default-src 'none'; style-src 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class App:
    """`key`: the one key that is taken; empty: any test key."""

    def __init__(self, world: World, key: str = "") -> None:
        self.world, self.key = world, key
        self.api = Api(world)

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            headers = {k.decode("latin1"): v.decode("latin1") for k, v in scope["headers"]}
            target = scope["path"] + (f"?{q}" if (q := scope["query_string"].decode()) else "")
            answer = self._answer(scope["method"], target, headers, await _body(receive))
            await _send(send, answer)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        deliveries = asyncio.create_task(Deliverer(self.world).run())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        deliveries.cancel()
        with suppress(asyncio.CancelledError):
            await deliveries
        await send({"type": "lifespan.shutdown.complete"})

    def _answer(self, method: str, target: str, headers: dict[str, str], body: str) -> Answer:
        path = target.partition("?")[0]
        try:
            if path.startswith("/v1/"):
                self._check_key(headers)
                return self.api.call(method, target, headers, body)
            if path.startswith("/_control/") and method == "POST":
                self._check_key(headers)
                with self.world.store.transaction():
                    done = control.act(self.world, path[10:], json.loads(body or "{}"))
                return _json(200, done)
            if path == "/style.css":
                return Answer(200, pages.STYLE, {"content-type": "text/css; charset=utf-8"})
            return self._page(method, path, headers.get("accept-language", ""), body)
        except ApiError as error:
            return _json(error.status, error.body)
        except ValueError as error:
            return _json(400, {"error": {"message": str(error)}})

    def _check_key(self, headers: dict[str, str]) -> None:
        given = headers.get("authorization", "").removeprefix("Bearer ")
        if self.key and not hmac.compare_digest(given.encode(), self.key.encode()):
            live = given.startswith(("sk_live_", "rk_live_"))
            said = "It refuses live keys." if live else "It takes the key it was started with."
            raise ApiError(f"This is a stand-in for Stripe. {said}", status=401)

    def _page(self, method: str, path: str, language: str, body: str) -> Answer:
        words = pages.words(language)
        form = dict(parse_qsl(body)) if method == "POST" else {}
        match path.strip("/").split("/"):
            case ["c", "pay", id]:
                with self.world.store.transaction():
                    session = checkout.look(self.world, id)
                    items = checkout.asked(self.world, id)["items"]
                if method == "POST" and session["status"] == "open":
                    return self._pressed(words, session, items, form.get("do", ""))
                return Answer(200, pages.checkout(words, session, items), {"content-type": HTML})
            case ["p", "session", id]:
                session = self.world.need("billing_portal.session", id)
                if (method_id := form.get("detach")) and self._owns(session, method_id):
                    with self.world.store.transaction():
                        cards.detach(self.world, {}, method_id)
                    return _redirect(path)
                text = pages.portal(words, self.world, session)
                return Answer(200, text, {"content-type": HTML})
        return _json(404, {"error": {"message": "There is no such page."}})

    def _owns(self, session: dict[str, Any], method_id: str) -> bool:
        method = self.world.store.get("payment_method", method_id)
        return method is not None and method["customer"] == session["customer"]

    def _pressed(
        self, words: pages.Words, session: dict[str, Any], items: list[Any], button: str
    ) -> Answer:
        if button == "cancel" and session["cancel_url"]:
            return _redirect(session["cancel_url"])
        card = "pm_card_visa" if button == "pay" else "pm_card_chargeDeclined"
        try:
            if session["mode"] == "setup" and button != "pay":
                raise ApiError(words("The card was declined."), status=402)
            kept = self._pay(session["id"], card)
        except ApiError as error:
            kept = error
        if kept is not None:
            said = words("The card was declined.") if kept.status == 402 else str(kept)
            text = pages.checkout(words, session, items, said)
            return Answer(kept.status, text, {"content-type": HTML})
        to = session["success_url"].replace("{CHECKOUT_SESSION_ID}", session["id"])
        return _redirect(to)

    def _pay(self, id: str, card: str) -> ApiError | None:
        """What was declined stays in the books of the stand-in, as it does at Stripe."""
        with self.world.store.transaction():
            try:
                checkout.pay(self.world, id, card)
            except ApiError as error:
                if not error.keeps:
                    raise
                return error
        return None


def _json(status: int, body: Any) -> Answer:
    return Answer(status, json.dumps(body))


def _redirect(to: str) -> Answer:
    return Answer(303, "", {"location": to})


async def _body(receive: Receive) -> str:
    parts, size = [], 0
    while True:
        message = await receive()
        size += len(message.get("body", b""))
        if size > LARGEST_BODY:
            return ""
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts).decode(errors="replace")


async def _send(send: Send, answer: Answer) -> None:
    """An answer that is to be lost is broken off: the server then closes the connection."""
    headers = {"content-type": "application/json"} | SAFE | answer.headers
    headers["content-length"] = str(len(answer.body.encode()))
    await send(
        {
            "type": "http.response.start",
            "status": answer.status,
            "headers": [(k.encode(), v.encode("latin1")) for k, v in headers.items()],
        }
    )
    if not answer.lost:
        await send({"type": "http.response.body", "body": answer.body.encode()})
