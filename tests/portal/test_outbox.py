"""Mail without a mail server: kept, shown on this machine, and to nobody else."""

import pytest
from django.core.mail import EmailMessage
from django.test import Client

from portal.outbox import EmailBackend


@pytest.fixture
def letter(db: None) -> None:
    EmailBackend().send_messages([EmailMessage("Your code", "ABC-123", to=["alice@acme.example"])])


def test_a_letter_is_shown_on_this_machine(client: Client, letter: None) -> None:
    page = client.get("/outbox/", headers={"host": "localhost:8000"}).content.decode()
    assert "ABC-123" in page
    assert "alice@acme.example" in page


@pytest.mark.parametrize(
    "asked",
    [
        {"REMOTE_ADDR": "192.0.2.7"},
        {"REMOTE_ADDR": "nonsense"},
        {"HTTP_X_FORWARDED_FOR": "127.0.0.1"},
        {"HTTP_FORWARDED": "for=127.0.0.1"},
        {"HTTP_HOST": "evil.example"},  # a website that gave its name our address
        {"HTTP_HOST": "evil.example:8000"},
    ],
)
def test_nobody_else_sees_it(client: Client, letter: None, asked: dict[str, str]) -> None:
    given = {"HTTP_HOST": "localhost"} | asked
    assert client.get("/outbox/", **given).status_code == 404  # type: ignore[arg-type]


def test_with_a_mail_server_there_is_no_outbox(
    client: Client, letter: None, settings: pytest.FixtureRequest
) -> None:
    settings.LOCAL_OUTBOX = False  # type: ignore[attr-defined]
    assert client.get("/outbox/", headers={"host": "localhost"}).status_code == 404
