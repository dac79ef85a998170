"""The stand-in as a process: pages for people, signed webhooks that come again, and state that
outlives it."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import stripe
from stripe import StripeClient, WebhookSignature

from billing.payments.client import http_client

KEY, SECRET = "sk_test_of_the_process", "whsec_of_the_process"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Listener:
    """Somebody's webhook endpoint: takes an event at its second coming."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, str]] = []
        self.seen: set[str] = set()
        listener = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"])).decode()
                event = json.loads(body)["id"]
                first = event not in listener.seen
                listener.seen.add(event)
                if not first:
                    listener.taken.append((body, self.headers["stripe-signature"]))
                self.send_response(503 if first else 200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


class Process:
    def __init__(self, home: Path, webhook: str) -> None:
        self.home, self.webhook = home, webhook
        self.port = free_port()
        self.base = f"http://127.0.0.1:{self.port}"
        self.start()
        self.client = StripeClient(
            KEY, base_addresses={"api": self.base}, http_client=http_client(self.base)
        )

    def start(self) -> None:
        argv = [sys.executable, "-m", "billing.localstripe", "--port", str(self.port)]
        argv += ["--home", str(self.home), "--webhook", self.webhook]
        environ = os.environ | {"STRIPE_SECRET_KEY": KEY, "STRIPE_WEBHOOK_SECRET": SECRET}
        self.process = subprocess.Popen(argv, env=environ)
        for _try in range(400):
            try:
                with socket.create_connection(("127.0.0.1", self.port), 0.1):
                    return
            except OSError:
                time.sleep(0.05)
        raise AssertionError("it does not start")

    def kill(self, by: signal.Signals = signal.SIGKILL) -> None:
        self.process.send_signal(by)
        self.process.wait(20)

    def open(self, path: str, form: dict[str, str] | None = None) -> tuple[int, str, str]:
        """As a browser, without following redirects."""
        data = urllib.parse.urlencode(form).encode() if form is not None else None
        opener = urllib.request.build_opener(_Stay)
        try:
            with opener.open(self.base + path, data, timeout=10) as answer:
                return answer.status, answer.read().decode(), answer.headers.get("location", "")
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode(), error.headers.get("location", "")

    def act(self, what: str, **told: object) -> int:
        request = urllib.request.Request(  # noqa: S310
            f"{self.base}/_control/{what}",
            json.dumps(told).encode(),
            {"authorization": f"Bearer {KEY}"},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            return int(answer.status)


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.close()


@pytest.fixture
def local(tmp_path: Path, listener: Listener) -> Iterator[Process]:
    process = Process(tmp_path, listener.url)
    yield process
    process.kill(signal.SIGTERM)


def new_session(local: Process, **more: object) -> stripe.checkout.Session:
    price = {"currency": "usd", "unit_amount": 2500, "product_data": {"name": "credit"}}
    asked = {
        "mode": "payment",
        "line_items": [{"quantity": 1, "price_data": price}],
        "success_url": "http://shop/?paid={CHECKOUT_SESSION_ID}",
        "cancel_url": "http://shop/back",
    }
    return local.client.v1.checkout.sessions.create(asked | more)


def test_a_person_pays_and_the_shop_hears_of_it(local: Process, listener: Listener) -> None:
    session = new_session(local)
    path = urllib.parse.urlsplit(session.url).path
    status, page, _ = local.open(path)
    assert status == 200
    assert "No money moves" in page and "25.00 USD" in page
    assert "<script" not in page and "style=" not in page

    status, page, _ = local.open(path, {"do": "decline"})
    assert status == 402 and "declined" in page
    assert local.open(path, {"do": "cancel"})[2] == "http://shop/back"
    status, _, to = local.open(path, {"do": "pay"})
    assert (status, to) == (303, f"http://shop/?paid={session.id}")
    assert local.client.v1.checkout.sessions.retrieve(session.id).payment_status == "paid"
    assert "no longer open" in local.open(path)[1]
    assert "no longer open" in local.open(path, {"do": "pay"})[1]

    deadline = time.monotonic() + 20
    while not any("checkout.session.completed" in body for body, _ in listener.taken):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for body, signature in listener.taken:
        assert WebhookSignature.verify_header(body, signature, SECRET, 300)


def test_what_was_done_outlives_a_kill(local: Process) -> None:
    session = new_session(local)
    local.kill()
    local.start()
    assert local.client.v1.checkout.sessions.retrieve(session.id).status == "open"
    assert len(local.client.v1.webhook_endpoints.list().data) == 1


def test_an_answer_can_get_lost_on_the_wire(local: Process) -> None:
    local.act("faults", lost_answers=1.0)
    with pytest.raises(stripe.APIConnectionError):
        local.client.v1.customers.create({"name": "Acme"})
    local.act("faults")
    assert len(local.client.v1.customers.list().data) == 1


def test_strangers_can_do_nothing(local: Process) -> None:
    other = StripeClient(
        "sk_test_another", base_addresses={"api": local.base}, http_client=http_client(local.base)
    )
    with pytest.raises(stripe.AuthenticationError):
        other.v1.customers.list()
    assert local.open("/_control/faults", {})[0] == 401
    assert local.open("/c/pay/cs_test_none")[0] == 404
    assert local.open("/nothing")[0] == 404


def test_the_portal_shows_cards_and_lets_them_go(local: Process) -> None:
    customer = local.client.v1.customers.create({"name": "Acme"})
    saved = new_session(local, mode="setup", customer=customer.id, line_items=[], currency="usd")
    local.open(urllib.parse.urlsplit(saved.url).path, {"do": "pay"})
    portal = local.client.v1.billing_portal.sessions.create(
        {"customer": customer.id, "return_url": "http://shop/back"}
    )
    path = urllib.parse.urlsplit(portal.url).path
    page = local.open(path)[1]
    assert "4242" in page and 'href="http://shop/back"' in page
    (method,) = local.client.v1.payment_methods.list({"customer": customer.id}).data
    assert local.open(path, {"detach": method.id})[0] == 303
    assert "4242" not in local.open(path)[1]


def test_it_does_not_start_with_a_live_key() -> None:
    environ = os.environ | {"STRIPE_SECRET_KEY": "sk_live_x"}
    done = subprocess.run(
        [sys.executable, "-m", "billing.localstripe", "--port", str(free_port())],
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "No money moves here" in done.stderr


def test_its_pages_speak_html_safely() -> None:
    from billing.localstripe import pages  # noqa: PLC0415

    session = {
        "status": "open",
        "mode": "payment",
        "amount_total": 30_000,
        "currency": "twd",
        "cancel_url": None,
    }
    page = pages.checkout(pages.words("en"), session, [{"description": "<script>x</script>"}])
    assert "<script" not in page and "300 TWD" in page and "Cancel" not in page
