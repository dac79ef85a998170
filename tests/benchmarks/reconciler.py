"""What the reconciler costs while nothing happens, and how soon it notices that something does.

    make bench

A thousand stopped instances and a hundred running ones with the place that exists only in memory,
and a PostgreSQL of its own. First it is left alone: the CPU time of the controller's process (the
place included) and of PostgreSQL, as shares of one core. Then stopped instances are started one by
one: the time from the person's commit until the place is asked. Writes `reconciler.json`.
"""

import argparse
import json
import os
import threading
import time
from pathlib import Path
from statistics import median
from typing import Any

import django
import psutil

RESULT = Path(__file__).parent / "reconciler.json"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--stopped", type=int, default=1000)
    parser.add_argument("--running", type=int, default=100)
    parser.add_argument("--seconds", type=int, default=30, help="how long it is left alone")
    parser.add_argument("--starts", type=int, default=20)
    options = parser.parse_args()
    from tests import servers  # noqa: PLC0415  - which start as they are imported

    try:
        django.setup()
        figures = measure(options)
    finally:
        servers._stop()
    RESULT.write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures))
    return 0


def measure(options: argparse.Namespace) -> dict[str, Any]:
    # Django's models can be imported once it is set up.
    from inference.provisioners.fake import FakeProvisioner  # noqa: PLC0415
    from inference.reconciler.loop import run  # noqa: PLC0415

    class Place(FakeProvisioner):
        asked: dict[str, float] = {}  # noqa: RUF012  - by instance, when

        def ensure(self, spec: Any, handle: Any = None) -> Any:
            self.asked.setdefault(spec.instance_id, time.monotonic())
            return super().ensure(spec, handle)

    place = Place()
    prepare(options.stopped, options.running)
    stop = threading.Event()
    controller = threading.Thread(target=run, args=(stop, place))
    controller.start()
    try:
        wait_until_all_serve(options.running)
        return {
            "instances": {"stopped": options.stopped, "running": options.running},
            **idle(options.seconds),
            **reactions(place.asked, options.starts),
        }
    finally:
        stop.set()
        controller.join()


def prepare(stopped: int, running: int) -> None:
    from django.core.management import call_command  # noqa: PLC0415

    from accounts.models import Organization, User  # noqa: PLC0415
    from inference import demo  # noqa: PLC0415
    from inference.models import Instance, InstanceRevision  # noqa: PLC0415

    call_command("migrate", verbosity=0)
    alice = User.objects.create_user(email="alice@acme.example")
    acme = Organization.found("Acme", alice)
    model = {"model_source": "bundled", "model_id": demo.MODEL_ID, "model_revision": "0" * 40}
    instances = [
        Instance(
            organization=acme,
            name=f"demo-{number}",
            desired="stopped" if number < stopped else "running",
            state="stopped" if number < stopped else "requested",
            **model,
        )
        for number in range(stopped + running)
    ]
    Instance.objects.bulk_create(instances)
    InstanceRevision.objects.bulk_create(
        InstanceRevision(organization=acme, instance=instance, number=1, engine="vllm", **model)
        for instance in instances
    )


def wait_until_all_serve(running: int) -> None:
    from inference.models import Instance  # noqa: PLC0415

    while Instance.objects.filter(state="ready").count() < running:
        time.sleep(0.2)
    time.sleep(6.0)  # the next rounds are quiet ones


def idle(seconds: int) -> dict[str, float]:
    """Per cent of one core."""
    postgres = [p for p in psutil.Process().children(recursive=True) if "postgres" in p.name()]
    own, theirs, began = time.process_time(), cpu_of(postgres), time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - began
    return {
        "controller_cpu_percent": round(100 * (time.process_time() - own) / took, 2),
        "postgres_cpu_percent": round(100 * (cpu_of(postgres) - theirs) / took, 2),
    }


def cpu_of(processes: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes if process.is_running())


def reactions(asked: dict[str, float], starts: int) -> dict[str, float]:
    """Milliseconds from the commit until the place is asked."""
    from inference.models import Instance  # noqa: PLC0415

    took = []
    for instance in Instance.objects.filter(desired="stopped")[:starts]:
        instance.request_start(None)
        began = time.monotonic()
        while str(instance.id) not in asked:
            time.sleep(0.001)
        took.append(1000 * (asked[str(instance.id)] - began))
        time.sleep(0.5)
    return {"reaction_ms_median": round(median(took), 1), "reaction_ms_worst": round(max(took), 1)}


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")
    raise SystemExit(main())
