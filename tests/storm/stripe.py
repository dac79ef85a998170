"""P5, the long form: payments while everything that can go wrong with Stripe does.

    python -m tests.storm.stripe --payments 400 --kills 20

Real processes: PostgreSQL, the portal with the webhooks, a worker, and the stand-in for Stripe,
which delivers each event 1 to 5 times, shuffled and late, loses a fifth of its answers after the
work is done, and fails a tenth of its requests. Portal and worker are killed at random. People pay,
are declined, get refunds, dispute; forgers knock. Then Stripe's books and ours are compared.

The last line is a JSON object. `wrong`: organizations whose wallet is not what they paid, to the
minor unit. `double`, `lost`: payments that are in the books twice, or not. `forged`: forgeries that
were let in. `unexplained`: differences that the daily check finds.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import django

from portal.embedded import Postgres, Redis
from portal.lib.env import environment, read
from portal.lib.processes import die_with_parent

KEY, SECRET = "sk_test_of_the_storm", "whsec_of_the_storm"
PAYERS = 6
FAULTS = {"duplicates": 5, "delay": 4.0, "lost_answers": 0.2, "failures": 0.1}
CURRENCIES = ("USD", "TWD", "JPY", "EUR")
CARDS = ("pm_card_visa", "pm_card_visa", "pm_card_visa", "pm_card_chargeDeclined")
ENDED = 180  # seconds until everything has come to its end


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Machine:
    """The processes; this one is set up as one of them."""

    def __init__(self, home: Path, seed: int) -> None:
        self.draw = random.Random(seed)  # noqa: S311
        self.env = read({"MODELPORT_HOME": str(home)})
        self.env.make_run_dir()
        (home / "staticroot").mkdir()
        self.home, self.port, self.stripe_port = home, free_port(), free_port()
        self.base = f"http://127.0.0.1:{self.stripe_port}"
        self.webhook = f"http://127.0.0.1:{self.port}/stripe/webhook/"
        os.environ |= {
            "MODELPORT_HOME": str(home),
            "DATABASE_URL": self.env.database,
            "DATABASE_OWNER_URL": self.env.database_owner,
            "REDIS_URL": self.env.redis,
            "PORT": str(self.port),
            "DJANGO_SETTINGS_MODULE": "portal.settings",
            "STRIPE_SECRET_KEY": KEY,
            "STRIPE_WEBHOOK_SECRET": SECRET,
            "STRIPE_API_BASE": self.base,
        }
        environment.cache_clear()
        self.log = (home / "storm.log").open("wb")
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.kills = 0

    def start(self) -> None:
        server = Postgres(self.env)
        server.prepare()
        self.processes["postgres"] = server.start(self.log.fileno())
        server.wait(self.processes["postgres"])
        redis = Redis(self.env)
        self.processes["redis"] = redis.start(self.log.fileno())
        redis.wait(self.processes["redis"])
        django.setup()
        from django.core.management import call_command  # noqa: PLC0415

        call_command("migrate", verbosity=0)
        self.begin("stripe")
        self.begin("web")
        self.begin("worker")
        answering(f"{self.base}/style.css")
        answering(f"http://127.0.0.1:{self.port}/healthz")

    def begin(self, name: str) -> None:
        argv = {
            "stripe": ["billing.localstripe", "--port", str(self.stripe_port)]
            + ["--home", str(self.home / "payments"), "--webhook", self.webhook],
            "web": ["portal.cli", "web"],
            "worker": ["tests.storm.stripe_worker"],
        }[name]
        self.processes[name] = subprocess.Popen(
            [sys.executable, "-m", *argv],
            stdout=self.log,
            stderr=self.log,
            preexec_fn=die_with_parent,
        )

    def kill_one(self) -> None:
        name = self.draw.choice(["web", "worker"])
        self.processes[name].kill()
        self.processes[name].wait()
        self.begin(name)
        self.kills += 1

    def act(self, what: str, **told: Any) -> dict[str, Any] | None:
        """What happens at Stripe's side; None where it could not."""
        request = urllib.request.Request(  # noqa: S310
            f"{self.base}/_control/{what}",
            json.dumps(told).encode(),
            {"authorization": f"Bearer {KEY}"},
        )
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310
                return dict(json.load(answer))
        except (urllib.error.URLError, OSError):
            return None

    def press(self, session_id: str, button: str) -> None:
        """What a person does on the payment page."""
        with contextlib.suppress(urllib.error.URLError, OSError):
            opener = urllib.request.build_opener(_Stay)
            opener.open(f"{self.base}/c/pay/{session_id}", f"do={button}".encode(), timeout=20)

    def stop(self) -> None:
        for name in ("worker", "web", "stripe", "redis", "postgres"):
            if (process := self.processes.get(name)) is None:
                continue
            process.send_signal(signal.SIGINT if name == "postgres" else signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.log.close()


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def answering(url: str) -> None:
    until = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):  # noqa: S310
                return
        except (urllib.error.URLError, OSError):
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


class Payers:
    """People and machines of one organization each, in threads."""

    def __init__(self, machine: Machine, payments: int, seed: int) -> None:
        from accounts.models import Organization  # noqa: PLC0415
        from billing.models import BillingProfile  # noqa: PLC0415

        self.machine, self.seed = machine, seed
        self.left = iter(range(payments))
        self.lock = threading.Lock()
        self.done = 0
        self.forged: list[int] = []
        self.broken: list[Exception] = []
        self.organizations = []
        for number in range(PAYERS):
            acme = Organization.objects.create(name=f"Acme {number}", slug=f"acme-{number}")
            currency = CURRENCIES[number % len(CURRENCIES)]
            BillingProfile.objects.create(organization=acme, currency=currency)
            self.organizations.append(acme)

    def run(self) -> None:
        threads = [threading.Thread(target=self.pay, args=(n,)) for n in range(PAYERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def pay(self, number: int) -> None:
        from django.db import connection  # noqa: PLC0415

        draw = random.Random(self.seed * 100 + number)  # noqa: S311
        try:
            while True:
                with self.lock:
                    if next(self.left, None) is None:
                        return
                self._one(self.organizations[number], draw)
                with self.lock:
                    self.done += 1
        except Exception as error:  # whatever it is, the storm has not been what it says
            self.broken.append(error)
            raise
        finally:
            connection.close()

    def _one(self, acme: Any, draw: random.Random) -> None:
        from billing.models import TopUp  # noqa: PLC0415
        from billing.money import NANO  # noqa: PLC0415
        from billing.payments import automatic, checkout, takebacks  # noqa: PLC0415
        from portal.lib.errors import Refusal  # noqa: PLC0415

        units = draw.randint(500, 2000)
        with contextlib.suppress(Refusal):
            url = checkout.begin(
                acme, None, units * NANO, "http://x/", save_card=draw.random() < 0.2
            )
            session = url.rsplit("/", 1)[1]
            if draw.random() < 0.15:
                self.machine.press(session, "decline")
            if draw.random() < 0.1:
                self.machine.act("pay", id=session, later=True)
                self.machine.act("arrive", id=session, well=draw.random() < 0.7)
            elif draw.random() < 0.9:
                self.machine.press(session, "pay")
            if draw.random() < 0.5:  # and comes back, where others close the window
                checkout.returned(acme, TopUp.objects.get(session_id=session).id)
        paid = TopUp.objects.filter(organization=acme, state="paid")
        if draw.random() < 0.2 and (top_up := paid.order_by("?").first()):
            with contextlib.suppress(Refusal):
                takebacks.begin_refund(top_up, draw.randint(1, 300) * NANO, None)
        if draw.random() < 0.1 and (top_up := paid.order_by("?").first()):
            self._dispute(top_up, draw)
        if draw.random() < 0.1 and automatic.default_card(acme) is not None:
            with contextlib.suppress(Refusal):
                automatic.configure(
                    acme, enabled=True, threshold_nano=9_000 * NANO, nano=600 * NANO
                )
        if draw.random() < 0.5:
            self.forged.append(self._forge(acme, draw))

    def _dispute(self, top_up: Any, draw: random.Random) -> None:
        from billing.payments.fetching import NotOurs, fetch  # noqa: PLC0415
        from portal.lib.errors import Unavailable  # noqa: PLC0415

        with contextlib.suppress(Unavailable, NotOurs):
            intent = fetch(lambda stripe: stripe.v1.payment_intents.retrieve(top_up.intent_id))
            made = self.machine.act("dispute", charge_id=intent.latest_charge)
            if made and draw.random() < 0.7:
                self.machine.act("close_dispute", id=made["id"], won=draw.random() < 0.5)

    def _forge(self, acme: Any, draw: random.Random) -> int:
        from stripe import WebhookSignature  # noqa: PLC0415

        from billing.models import Installation, TopUp  # noqa: PLC0415

        top_up = TopUp.objects.filter(organization=acme).order_by("?").first()
        ours = {"modelport": Installation.mark(), "top_up": str(top_up.id if top_up else "")}
        event = {
            "id": f"evt_{draw.random()}",
            "object": "event",
            "type": "checkout.session.completed",
            "livemode": False,
            "created": int(time.time()),
            "data": {"object": {"id": top_up.session_id if top_up else "", "mode": "payment"}},
            "metadata": ours,
        }
        body = json.dumps(event)
        secret = draw.choice(["whsec_guessed", "", "whsec_"])
        signature = WebhookSignature.generate_signature_header(body, secret)
        headers = {"content-type": "application/json", "stripe-signature": signature}
        request = urllib.request.Request(self.machine.webhook, body.encode(), headers)  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310
                return int(answer.status)
        except urllib.error.HTTPError as error:
            error.close()
            return error.code
        except (urllib.error.URLError, OSError):
            return 0  # the portal has just been killed


def settle(machine: Machine) -> None:
    """No more faults; wait until every event is taken and every call is answered."""
    from django.utils import timezone  # noqa: PLC0415

    from billing.models import StripeCall  # noqa: PLC0415
    from billing.payments.client import client  # noqa: PLC0415

    machine.act("faults")
    until = time.monotonic() + ENDED
    while time.monotonic() < until:
        StripeCall.objects.filter(state="waiting").update(not_before=timezone.now())
        waiting = StripeCall.objects.filter(state="waiting", interactive=False).exists()
        late = client().v1.events.list({"delivery_success": False, "limit": 100}).data
        if not waiting and not late and machine.act("waiting") == {"deliveries": 0}:
            return
        time.sleep(0.5)
    raise AssertionError("events or calls that never come to their end")


def compare(payers: Payers) -> dict[str, int]:
    """Stripe's books and ours."""
    from billing import wallet  # noqa: PLC0415
    from billing.models import Balance, LedgerTransaction, TopUp  # noqa: PLC0415
    from billing.money import nano_of_stripe  # noqa: PLC0415
    from billing.payments import reconcile  # noqa: PLC0415
    from billing.payments.client import client  # noqa: PLC0415
    from billing.payments.fetching import metadata_of  # noqa: PLC0415
    from billing.payments.takebacks import DISPUTED  # noqa: PLC0415

    stripe = client().v1
    intents = list(stripe.payment_intents.list({"limit": 100}).auto_paging_iter())
    paid = {i.id: i for i in intents if i.status == "succeeded"}
    gone = dict.fromkeys(paid, 0)
    for refund in stripe.refunds.list({"limit": 100}).auto_paging_iter():
        gone[refund.payment_intent] += refund.amount if refund.status == "succeeded" else 0
    for dispute in stripe.disputes.list({"limit": 100}).auto_paging_iter():
        gone[dispute.payment_intent] += dispute.amount if dispute.status in DISPUTED else 0
    wrong = 0
    for acme in payers.organizations:
        mine = [i for i in paid.values() if metadata_of(i)["organization"] == str(acme.id)]
        currency = wallet.profile_of(acme).currency
        left = nano_of_stripe(sum(i.amount_received - gone[i.id] for i in mine), currency)
        funds = wallet.funds(acme)
        if funds.available - funds.owed != left:
            wrong += 1
            print(f"wrong: {acme} has {funds}, and has paid {left}")
    ours = list(TopUp.objects.filter(state="paid").values_list("intent_id", flat=True))
    days = reconcile.check()
    return {
        "wrong": wrong,
        "lost": len(paid.keys() - set(ours)),
        "double": len(ours) - len(set(ours)),
        "unpaid": len(set(ours) - paid.keys()),
        "forged": sum(status in range(200, 300) for status in payers.forged),
        "forgeries": sum(status == 400 for status in payers.forged),
        "unheard": payers.forged.count(0),  # while the portal was down
        "unbalanced": sum(Balance.objects.values_list("nano", flat=True)),
        "unexplained": sum(day.unexplained for day in days),
        "differences": sum(day.stripe_nano != day.ledger_nano for day in days),
        "paid": len(paid),
        "taken_back": sum(1 for amount in gone.values() if amount),
        "entries": LedgerTransaction.objects.count(),
    }


def storm(machine: Machine, payments: int, kills: int, seed: int) -> dict[str, int]:
    machine.start()
    machine.act("faults", **FAULTS, seed=seed)
    payers = Payers(machine, payments, seed)
    paying = threading.Thread(target=payers.run)
    paying.start()
    # Here, in the first thread: children die with the thread that began them.
    for number in range(kills):
        while payers.done < payments * (number + 0.5) / kills and paying.is_alive():
            time.sleep(0.05)
        machine.kill_one()
        answering(f"http://127.0.0.1:{machine.port}/healthz")
    paying.join()
    if payers.broken:
        raise payers.broken[0]
    answering(f"http://127.0.0.1:{machine.port}/healthz")
    settle(machine)
    return compare(payers)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--payments", type=int, default=400)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    began = time.monotonic()
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="st-", dir="/tmp") as home:
        machine = Machine(Path(home), options.seed)
        try:
            found = storm(machine, options.payments, options.kills, options.seed)
        except BaseException:
            print((Path(home) / "storm.log").read_text()[-4000:], file=sys.stderr)
            raise
        finally:
            machine.stop()
    print(json.dumps(found | {"kills": machine.kills, "seconds": round(time.monotonic() - began)}))
    names = ("wrong", "lost", "double", "unpaid", "forged", "unbalanced", "unexplained")
    return int(any(found[name] for name in (*names, "differences")) or not found["paid"])


if __name__ == "__main__":
    sys.exit(main())
