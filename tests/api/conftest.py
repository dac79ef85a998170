import json
from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from accounts.models import ApiKey, Organization, User

ROOT = "/api/v1/"


class Api:
    """A program's view of the REST API: one management key, JSON both ways."""

    def __init__(self, plain: str = "") -> None:
        self.client = Client(headers={"Authorization": f"Bearer {plain}"} if plain else {})

    def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        response = self.raw(method, path, body, **headers)
        return response.status_code, json.loads(response.content) if response.content else None

    def raw(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        sent = None if body is None else json.dumps(body)
        return self.client.generic(
            method.upper(),
            path if path.startswith("/") else ROOT + path,
            sent or "",
            content_type="application/json",
            headers={name.replace("_", "-"): value for name, value in headers.items()},
        )


@pytest.fixture
def key_of() -> Callable[[Organization, User], Api]:
    def make(organization: Organization, user: User) -> Api:
        _, plain = ApiKey.issue(organization, user, "script", kind=ApiKey.Kind.MANAGEMENT)
        return Api(plain)

    return make


@pytest.fixture
def alice_api(acme: Organization, alice: User, key_of: Callable[..., Api]) -> Api:
    return key_of(acme, alice)


@pytest.fixture
def charlie_api(umbrella: Organization, charlie: User, key_of: Callable[..., Api]) -> Api:
    return key_of(umbrella, charlie)
