"""One request to the API: who asks, has it been asked before, is it well formed, and the answer."""

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from stripe._api_version import _ApiVersion

from billing.localstripe.contract import checked
from billing.localstripe.errors import ApiError
from billing.localstripe.resources import routes
from billing.localstripe.routing import expanded
from billing.localstripe.wire import decoded
from billing.localstripe.world import Object, World

LONGEST_KEY = 255


@dataclass
class Answer:
    status: int
    body: str
    headers: dict[str, str] = field(default_factory=dict)
    lost: bool = False  # it was done, but nobody is to hear of it


class Api:
    """Stripe's API over one world. `call` may be used directly, without any HTTP."""

    def __init__(self, world: World) -> None:
        self.world = world

    def call(self, method: str, target: str, headers: Mapping[str, str], body: str = "") -> Answer:
        """`headers` with names in lower case."""
        path, _, query = target.partition("?")
        request_id = self.world.store.new_id("req", 14)
        about = {"request-id": request_id, "stripe-version": _ApiVersion.CURRENT}
        try:
            account = _account(headers)
            _check_version(headers)
            answer = self._once(method, path, query, body, headers, account, request_id)
        except ApiError as error:
            answer = Answer(error.status, json.dumps(error.body))
        answer.headers |= about
        answer.lost = method == "POST" and self.world.faults.chance(self.world.faults.lost_answers)
        return answer

    def _once(
        self,
        method: str,
        path: str,
        query: str,
        body: str,
        headers: Mapping[str, str],
        account: str,
        request_id: str,
    ) -> Answer:
        """As often as a POST comes under one key, it is done once."""
        given = headers.get("idempotency-key", "") if method == "POST" else ""
        if len(given) > LONGEST_KEY:
            raise ApiError("Keys for idempotent requests may be 255 characters long.")
        key = f"{account}:{given}" if given else ""
        asked = hashlib.sha256(f"{method} {path}?{query}\n{body}".encode()).hexdigest()
        if key and (known := self.world.store.remembered(key)) is not None:
            return _replayed(known, asked, given)
        if method == "POST" and self.world.faults.chance(self.world.faults.failures):
            return self._failed(key, asked)
        self.world.request = {"id": request_id, "idempotency_key": given or None}
        route, ids = routes.match(method, path)
        params = checked(decoded(query if method == "GET" else body), route.schema)
        kept: ApiError | None = None
        with self.world.store.transaction():
            try:
                result = route.handler(self.world, params, **ids)
                status, text = 200, json.dumps(self._shown(result, params))
            except ApiError as error:
                if not error.keeps:
                    raise
                kept, status, text = error, error.status, json.dumps(error.body)
            if key:
                self.world.store.remember(key, asked, status, text)
        return Answer(status, text) if kept is None else Answer(kept.status, text)

    def _shown(self, result: Object, params: Object) -> Object:
        paths = params.get("expand", [])
        if result.get("object") == "list":
            paths = [path.removeprefix("data.") for path in paths]
            result["data"] = [expanded(self.world, each, paths) for each in result["data"]]
            return result
        return expanded(self.world, result, paths)

    def _failed(self, key: str, asked: str) -> Answer:
        text = json.dumps({"error": {"type": "api_error", "message": "Something went wrong."}})
        if key and self.world.faults.chance(self.world.faults.remembered):
            self.world.store.remember(key, asked, 500, text)
        return Answer(500, text)


def _replayed(known: tuple[str, int, str], asked: str, key: str) -> Answer:
    before, status, text = known
    if before != asked:
        raise ApiError(
            "Keys for idempotent requests can only be used with the same parameters they were "
            f"first used with. Try using a key other than '{key}'.",
            type="idempotency_error",
        )
    return Answer(status, text, {"idempotent-replayed": "true"})


def _account(headers: Mapping[str, str]) -> str:
    """The key, which stands for the account. Raises ApiError."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        value = base64.b64decode(value + "==").decode(errors="replace").partition(":")[0]
    if value.startswith(("sk_live_", "rk_live_")):
        raise ApiError(
            "This is a stand-in for Stripe. It refuses live keys.", status=401, code="live_key"
        )
    if not value.startswith(("sk_test_", "rk_test_")):
        raise ApiError("Invalid API Key provided.", status=401)
    return value


def _check_version(headers: Mapping[str, str]) -> None:
    version = headers.get("stripe-version", _ApiVersion.CURRENT)
    if version != _ApiVersion.CURRENT:
        raise ApiError(f"Invalid Stripe API version: {version}; this is {_ApiVersion.CURRENT}.")
