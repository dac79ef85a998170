"""The chaos loop: promises P1 and P2 of metering under `kill -9` of everything but the engine.

    python -m tests.chaos --requests 10000 --kills 200 [--seed N]

Two gateways on one port, the meter, Celery's worker, PostgreSQL and Redis are killed at random and
started again at once, while clients of every kind call and a tenth of them hang up. In the end
every admitted request must have exactly one row, no row may tell more than the engine made, and
what a client saw complete must be billed as what it was. The last line is a JSON object; the exit
status is 1 where anything was found.
"""

import argparse
import asyncio
import json
import os
import random
import shutil
import socket
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

import uvloop

GAP = 0.5  # seconds between two kills at least: the machine must start what dies
CALLERS = 32
PATIENCE = 60.0  # seconds for the gateways to answer after the start
NOT_PASSED_ON = ("DATABASE_URL", "REDIS_URL", "API_KEY_PEPPER", "SECRET_KEY")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=10_000, help="answered at least")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--keep", action="store_true", help="the folder, to look into")
    options = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="chaos-", dir="/tmp"))  # paths of sockets must be short
    for name in NOT_PASSED_ON:  # a test run's own servers are not ours to kill
        os.environ.pop(name, None)
    os.environ |= {"MODELPORT_HOME": str(home), "DJANGO_SETTINGS_MODULE": "portal.settings"}
    print(f"seed {options.seed}, in {home}", flush=True)
    fine = False
    try:
        fine = loop(home, options.requests, options.kills, options.seed)
    finally:
        if fine and not options.keep:
            shutil.rmtree(home)
        else:
            print(f"Journals and logs are kept in {home}.", file=sys.stderr)
    return 0 if fine else 1


def loop(home: Path, requests: int, kills: int, seed: int) -> bool:
    # Imported here: Django's settings read the environment above.
    from portal.lib.env import read  # noqa: PLC0415
    from tests.chaos import furnish, report  # noqa: PLC0415
    from tests.chaos.clients import Clients  # noqa: PLC0415
    from tests.chaos.scene import Scene  # noqa: PLC0415

    draw = random.Random(seed)  # noqa: S311
    scene = Scene(read({"MODELPORT_HOME": str(home)}), free_port(), draw)
    began = time.monotonic()
    try:
        scene.start_servers()
        key = furnish.tables(home)
        scene.start_ours()
        clients = Clients(scene.port, key, draw)
        made = uvloop.run(play(scene, clients, requests, kills))
        scene.end()
        found = report.of(scene, clients.seen, made)
    finally:
        scene.close()
    print(
        json.dumps(
            {"requests": clients.answered, "kills": scene.kills.total()}
            | found.figures()
            | {"seed": seed, "seconds": round(time.monotonic() - began, 1)}
        ),
        flush=True,
    )
    return found.none
