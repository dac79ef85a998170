"""An engine killed again and again, with all of Modelport round it: is it back, and how soon? (P11)

    python -m tests.rolling.healing [--real] [--kills 20]

Between kills it is made to have served for a quarter of an hour, by moving the ends of its
forerunners back. Then it is killed as soon as it is ready, without that: a crash loop, which is to
stop with the reason. The last line is a JSON object; `late_s` is from a kill until the next start
begins, `orphans` counts processes that a killed engine has left.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import psycopg

from inference.lifecycle import ATTEMPTS
from inference.node import processes
from inference.node.shim import tracks_resources
from tests.rolling.fleet import READY, Fleet, wait_until

MOST = 3 + ATTEMPTS  # deaths within the window, the last of which nothing follows
SERVING = """
    SELECT id::text, extract(epoch FROM created_at), extract(epoch FROM ready_at)
    FROM inference_replica WHERE state = 'ready'
"""
AGE = "UPDATE inference_replica SET ended_at = ended_at - interval '15 minutes'"
STATE = "SELECT state, message FROM inference_instance"
BILLED = """
    SELECT extract(epoch FROM min(started_at)), extract(epoch FROM max(ended_at))
    FROM inference_servinginterval WHERE replica_id = %s
"""


class Healing:
    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.draw = random.Random(11)  # noqa: S311
        self.late: list[float] = []
        self.starts: list[float] = []
        self.orphans = 0
        self.billed = 0.0  # seconds, at most, that one was billed beyond its time

    def ask(self, query: str, *values: object) -> Any:
        with psycopg.connect(self.fleet.env.database, autocommit=True) as connection:
            asked = connection.execute(query, values)
            return asked.fetchone() if asked.description else None

    def kill(self) -> float:
        """One of the engine's processes, when it is ready; the time (s, Unix)."""
        replica, began, ready = self.serving()
        shim = self.shim(replica)
        mine = processes.of_replica(replica, shim)
        victims = [pid for pid in mine if not tracks_resources(pid)]  # one can do without those
        at = datetime.now(UTC).timestamp()
        psutil.Process(self.draw.choice(victims)).kill()
        wait_until(lambda: self.ended(replica), 120)
        self.orphans += len(processes.of_replica(replica, shim))
        first, last = self.ask(BILLED, replica)
        self.billed = max(self.billed, ready - float(first), float(last) - at)
        self.starts.append(ready - began)
        return at

    def heal(self, kills: int) -> None:
        for _ in range(kills):
            at = self.kill()
            _replica, began, _ready = self.serving()
            self.late.append(began - at)
            self.ask(AGE)

    def loop(self) -> tuple[int, str]:
        """How many deaths it took until it was left alone, and what is said of it."""
        self.ask(AGE)
        for deaths in range(1, 2 * MOST):
            self.kill()
            wait_until(lambda: self.state() in {"failed", "ready"}, READY)
            if self.state() == "failed":
                return deaths, str(self.ask(STATE)[1])
        return 0, ""

    def serving(self) -> tuple[str, float, float]:
        wait_until(lambda: self.ask(SERVING) is not None, READY)
        id_, began, ready = self.ask(SERVING)
        return id_, float(began), float(ready)

    def state(self) -> str:
        """Of the instance; that of one whose engine is dead is not known yet."""
        serves = self.ask(SERVING) is not None
        said = str(self.ask(STATE)[0])
        return said if said == "failed" or serves else ""

    def ended(self, replica: str) -> bool:
        gone = "SELECT 1 FROM inference_replica WHERE id = %s AND state = 'gone'"
        return self.ask(gone, replica) is not None

    def shim(self, replica: str) -> int:
        record = self.fleet.home / "instances" / replica / "state.json"
        return int(json.loads(record.read_text())["shim"]["pid"])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--real", action="store_true", help="vLLM in the place of the fake engine")
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ro-", dir="/tmp") as home:
        fleet = Fleet(Path(home), real=options.real)
        try:
            fleet.start()
            healing = Healing(fleet)
            healing.heal(options.kills)
            deaths, said = healing.loop()
        except BaseException:
            print((Path(home) / "storm.log").read_text()[-6000:], file=sys.stderr)
            raise
        finally:
            fleet.stop()
    result = {
        "kills": options.kills,
        "start_s": round(median(healing.starts), 1),
        "late_s_median": round(median(healing.late), 2),
        "late_s_worst": round(max(healing.late), 2),
        "orphans": healing.orphans,
        "billed_down_s_worst": round(healing.billed, 2),
        "loop_deaths": deaths,
        "loop_said": said,
        "seconds": round(time.monotonic() - began),
    }
    print(json.dumps(result))
    return int(bool(healing.orphans or healing.billed > 2 or deaths != MOST))


if __name__ == "__main__":
    sys.exit(main())
