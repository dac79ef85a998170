"""Hard stop (P4) and a database that is away (P7): one wallet, many clients, two gateways;
PostgreSQL frozen in the middle of it, then a gateway killed with what it holds.

    python -m tests.storm.credit        64 clients, frozen for 60 s

Half of the clients spend a wallet that is soon empty, half one that is full. The last line is a
JSON object, `overdrawn` and `noticed` must be 0. `overdrawn`: nano-units that were spent beyond
what the wallets had. `noticed`: what clients of the full wallet were refused in the freeze.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import openai
import psycopg

from tests.storm.__main__ import answering
from tests.storm.machine import Machine
from tests.storm.prepare_credit import POOR, RICH

STEADY = 3.0  # seconds of traffic before the freeze, for leases to know it
AFTER = 6.0  # seconds of traffic behind it, in which a gateway is killed
PAUSE = 0.05  # seconds between two requests of a client


@dataclass
class Seen:
    """What clients of one wallet met, by the code of its refusal; "ok" for an answer."""

    all: Counter[str] = field(default_factory=Counter)
    frozen: Counter[str] = field(default_factory=Counter)
    stop: bool = False
    is_frozen: bool = False

    def saw(self, what: str) -> None:
        self.all[what] += 1
        if self.is_frozen:
            self.frozen[what] += 1


async def client(sdk: openai.AsyncOpenAI, seen: Seen) -> None:
    """Ask, one request after the other, whole and streamed in turns."""
    body = {"model": "demo", "messages": [{"role": "user", "content": "more " * 9}]}
    stream = False
    while not seen.stop:
        stream = not stream
        try:
            answer = await sdk.chat.completions.create(**body, max_tokens=20, stream=stream)
            if stream:
                async for _ in answer:
                    pass
            seen.saw("ok")
        except openai.APIStatusError as error:
            seen.saw(str(error.code))
        except openai.OpenAIError:
            seen.saw("broken")  # killed under our hands
        await asyncio.sleep(PAUSE)


async def storm(machine: Machine, keys: list[str], clients: int, frozen: float) -> dict[str, Seen]:
    url = f"http://127.0.0.1:{machine.port}/v1"
    for key in keys:
        await answering(url, key)
    seen = {"poor": Seen(), "rich": Seen()}
    sdks = [openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=0) for key in keys]
    asking = [
        asyncio.create_task(client(sdks[number % 2], seen[("poor", "rich")[number % 2]]))
        for number in range(clients)
    ]
    while seen["rich"].all["ok"] < clients:
        await asyncio.sleep(0.1)
    await asyncio.sleep(STEADY)
    machine.freeze()
    for each in seen.values():
        each.is_frozen = True
    await asyncio.sleep(frozen)
    for each in seen.values():
        each.is_frozen = False
    machine.freeze(thaw=True)
    await asyncio.sleep(AFTER / 2)
    machine.kill_gateway()
    await asyncio.sleep(AFTER / 2)
    for each in seen.values():
        each.stop = True
    await asyncio.gather(*asking)
    await asyncio.gather(*(sdk.close() for sdk in sdks))
    await asyncio.to_thread(machine.settle)
    return seen


_BOOKS = """
    SELECT o.slug, -COALESCE(sum(e.nano) FILTER (WHERE t.kind = 'usage'), 0)::bigint,
        COALESCE(sum(e.nano) FILTER (WHERE a.kind = 'receivable'), 0)::bigint
    FROM accounts_organization o
    JOIN billing_ledger_account a ON a.organization_id = o.id
    JOIN billing_ledger_entry e ON e.account_id = a.id
    JOIN billing_ledger_transaction t ON t.id = e.transaction_id
    GROUP BY o.slug
"""
_OPEN = "SELECT count(*) FROM billing_credit_lease WHERE closed_at IS NULL"
_TOO_MUCH = "SELECT count(*) FROM billing_credit_lease WHERE spent > granted"
_UNBALANCED = "SELECT sum(nano)::bigint FROM billing_ledger_balance"


def compare(machine: Machine, seen: dict[str, Seen]) -> dict[str, object]:
    with psycopg.connect(machine.env.database) as connection:
        books = {slug: (spent, owed) for slug, spent, owed in connection.execute(_BOOKS)}
        counts = [connection.execute(query).fetchone() for query in (_OPEN, _TOO_MUCH, _UNBALANCED)]
    (still_open,), (beyond_lease,), (unbalanced,) = (row or (0,) for row in counts)
    spent = {slug: books[slug][0] for slug in ("poor", "rich")}
    beyond = max(0, spent["poor"] - POOR) + max(0, spent["rich"] - RICH)
    noticed = {code: n for code, n in seen["rich"].frozen.items() if code != "ok"}
    return {
        "overdrawn": beyond - sum(owed for _, owed in books.values()),
        "noticed": sum(noticed.values()),
        "noticed_codes": noticed,
        "unbalanced": unbalanced,
        "leases_spent_beyond": beyond_lease,
        "leases_open": still_open,
        "spent": spent,
        "left_of_poor": POOR - spent["poor"],
        "answered_in_freeze": {name: each.frozen["ok"] for name, each in seen.items()},
        "seen": {name: dict(each.all) for name, each in seen.items()},
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--frozen", type=float, default=60.0, help="seconds")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="st-", dir="/tmp") as home:
        machine = Machine(Path(home), options.seed)
        try:
            keys = machine.start("tests.storm.prepare_credit").split()
            seen = asyncio.run(storm(machine, keys, options.clients, options.frozen))
            found = compare(machine, seen)
        except BaseException:
            print((Path(home) / "storm.log").read_text()[-4000:], file=sys.stderr)
            raise
        finally:
            machine.freeze(thaw=True)
            machine.stop()
    print(json.dumps({"clients": options.clients, "frozen": options.frozen} | found))
    wrong = ("overdrawn", "noticed", "unbalanced", "leases_spent_beyond", "leases_open")
    refused = seen["poor"].all["insufficient_quota"]
    return int(any(found[name] for name in wrong) or not refused)


if __name__ == "__main__":
    sys.exit(main())
