"""Events posted over TLS to addresses that were looked at."""

import hashlib
import hmac
import json
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from inference import webhooks
from inference.webhooks import NotDelivered
from tests.fakes.certificates import certificates

HOST = "hooks.example"
EVENT = {"id": "1-missed", "type": "slo.missed"}


@dataclass
class Receiver:
    port: int
    context: ssl.SSLContext
    status: int = 200
    got: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)

    def send(
        self, path: str = "/hook?token=1", trusted: frozenset[str] = frozenset({HOST})
    ) -> None:
        webhooks.send(
            f"https://{HOST}:{self.port}{path}",
            EVENT,
            secret="whsec_1",
            key="1-missed",
            trusted=trusted,
            resolve=lambda host, port: ["127.0.0.1"],
            context=self.context,
        )


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    authority, chain = certificates(tmp_path, HOST)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(chain)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            made.got.append((self.path, dict(self.headers), body))
            self.send_response(made.status)
            self.send_header("Location", "https://elsewhere.example/")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = tls.wrap_socket(server.socket, server_side=True)
    made = Receiver(server.server_port, ssl.create_default_context(cafile=authority))
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield made
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_receiver_can_check_who_sent_it(receiver: Receiver) -> None:
    receiver.send()

    ((path, headers, body),) = receiver.got
    assert path == "/hook?token=1"
    assert json.loads(body) == EVENT
    assert headers["Idempotency-Key"] == "1-missed"
    at, _, signed = headers["Modelport-Signature"].partition(",v1=")
    message = at.removeprefix("t=").encode() + b"." + body
    assert signed == hmac.new(b"whsec_1", message, hashlib.sha256).hexdigest()


@pytest.mark.parametrize("status", [302, 404, 500])
def test_all_but_success_is_tried_again_and_no_redirect_followed(
    receiver: Receiver, status: int
) -> None:
    receiver.status = status
    with pytest.raises(NotDelivered, match=str(status)):
        receiver.send()
    assert len(receiver.got) == 1


def test_a_name_that_leads_inside_gets_nothing(receiver: Receiver) -> None:
    with pytest.raises(NotDelivered, match="private network"):
        receiver.send(trusted=frozenset())
    assert receiver.got == []


def test_a_host_must_prove_its_name(receiver: Receiver) -> None:
    receiver.context = ssl.create_default_context()
    with pytest.raises(NotDelivered, match="CERTIFICATE_VERIFY_FAILED"):
        receiver.send()
    assert receiver.got == []


def test_a_name_that_is_none_is_not_delivered() -> None:
    with pytest.raises(NotDelivered):
        webhooks.send(
            f"https://{'a' * 64}.example/", EVENT, secret="s", key="k", trusted=frozenset()
        )
