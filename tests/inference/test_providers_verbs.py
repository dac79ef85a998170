"""External providers: entered, their secrets replaced, removed; and who may read the secret."""

from dataclasses import replace
from typing import Any

import pytest
from django.conf import settings as ours
from django.core.exceptions import ValidationError
from django.db import connection

from accounts.models import Organization, User
from inference.models import Provider, Route
from inference.models.provider import PURPOSE, checked_base_url
from inference.models.route import Way
from portal.lib import crypto
from portal.lib.errors import Conflict
from tests.inference.making import a_provider

SECRET = "sk-canary-0123456789"


def in_clear(provider: Provider) -> str:
    provider.refresh_from_db()
    return crypto.decrypt(provider.encrypted, key=ours.SECRET_KEY, purpose=PURPOSE)


def test_a_secret_is_unreadable_in_the_database_and_readable_by_the_gateway(
    acme: Organization, alice: User
) -> None:
    facts = {"name": "openai", "base_url": "https://api.example/v1/", "secret": f" {SECRET}\n"}
    provider = Provider.add(acme, alice, **facts)
    assert provider.base_url == "https://api.example/v1"
    assert in_clear(provider) == SECRET
    with connection.cursor() as cursor:
        cursor.execute("SELECT inference_provider::text FROM inference_provider")
        assert SECRET.encode().hex() not in str(cursor.fetchall())
    provider.rotate(alice, "sk-2")
    assert in_clear(provider) == "sk-2"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("https://api.openai.com/v1", "https://api.openai.com/v1"),
        (" https://API.openai.com/v1/ ", "https://api.openai.com/v1"),
        ("https://api.example:8443/openai/v1", "https://api.example:8443/openai/v1"),
        ("https://[2606:4700::1111]/v1", "https://[2606:4700::1111]/v1"),
        ("https://1.1.1.1", "https://1.1.1.1"),
    ],
)
def test_a_base_url_is_kept_in_one_form(given: str, kept: str) -> None:
    assert checked_base_url(given) == kept


@pytest.mark.parametrize(
    "address",
    ["", "api.example/v1", "http://api.example/v1", "ftp://api.example", "https://", "https:///v1"]
    + ["https://me:secret@api.example/v1", "https://me@api.example", "https://:pw@api.example"]
    + ["https://api.example/v1?key=1", "https://api.example/v1#x", "https://api.example:99999/v1"]
    + ["https://localhost/v1", "https://a.localhost/v1", "https://printer.local/v1"]
    + ["https://metadata.google.internal/v1", "https://127.0.0.1/v1", "https://10.1.2.3/v1"]
    + ["https://169.254.169.254/v1", "https://[::1]/v1", "https://[fd00::1]/v1"]
    + ["https://[::ffff:10.0.0.1]/v1", "https://bücher.example/v1", "https://api.example/ü"]
    + ["https://api.example/v 1", "https://api.example/v1\r\nX: y", "https://[::1", "https://a b/"]
    + ["https://api.example\\@127.0.0.1/v1", "https://127.0.0.1./v1", "https://localhost./v1"],
)
def test_an_address_that_cannot_be_a_provider_is_refused(address: str) -> None:
    with pytest.raises(ValidationError) as refused:
        checked_base_url(address)
    assert set(refused.value.message_dict) == {"base_url"}


def test_every_wrong_value_is_named_at_once(acme: Organization, alice: User) -> None:
    with pytest.raises(ValidationError) as refused:
        Provider.add(acme, alice, name="No Name", base_url="http://x", secret="with\nline")
    assert set(refused.value.message_dict) == {"name", "base_url", "secret"}
    assert not Provider.objects.exists()


def test_a_name_is_taken_once_in_an_organization(
    acme: Organization, umbrella: Organization, alice: User, charlie: User
) -> None:
    a_provider(acme, alice)
    a_provider(umbrella, charlie)
    with pytest.raises(ValidationError, match="exists already"):
        a_provider(acme, alice)


def test_a_provider_that_a_route_needs_stays(acme: Organization, alice: User) -> None:
    provider = a_provider(acme, alice)
    ways = [Way(provider=provider, provider_model="gpt")]
    route = Route.make(acme, alice, name="chat", ways=ways)
    with pytest.raises(Conflict, match="chat"):
        provider.remove()
    route.delete()
    provider.remove()
    assert not Provider.objects.exists()


def test_an_operators_own_host_may_be_private(settings: Any) -> None:
    settings.ENV = replace(settings.ENV, provider_hosts=frozenset({"10.1.2.3"}))
    assert checked_base_url("https://10.1.2.3:8000/v1") == "https://10.1.2.3:8000/v1"
    with pytest.raises(ValidationError):
        checked_base_url("https://10.1.2.4/v1")
