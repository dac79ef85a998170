"""Has the time for which replicas served charged: each whole second once.

How far an interval is billed stands in its own row, which is locked while it is charged and written
in the same transaction: whoever is killed has charged nothing, and of two at the same time one
passes by. What is no whole second yet waits; of an interval that has ended, it is given away.

An engine that is gone is noticed a moment later, and a machine that is gone a good while. So, of
what goes on, only that is charged which its machine vouches for: what was a while before it was
last reached, and has been looked at since.
"""

import logging
from datetime import datetime, timedelta
from uuid import UUID

from django.db import InterfaceError, OperationalError, transaction
from django.utils import timezone

from billing import gpu
from inference.models import Node, ServingInterval

NOTICED = timedelta(seconds=30)  # after which the controller knows of an engine that has ended

log = logging.getLogger(__name__)


def bill(now: datetime | None = None) -> int:
    """Charge what was served until now; nano-units, of all currencies together.

    One that cannot be charged holds up nobody: it is told to the log and tried again the next time.
    """
    now = now or timezone.now()
    total = 0
    for id_ in ServingInterval.objects.filter(billed=False).values_list("id", flat=True):
        try:
            total += bill_interval(id_, now)
        except (OperationalError, InterfaceError):
            raise  # PostgreSQL is away; what is not charged yet is the next time
        except Exception:
            log.exception("the serving interval %s could not be billed", id_)
    return total


@transaction.atomic
def bill_interval(id_: UUID, now: datetime) -> int:
    """Charge what was served until now in this interval, unless somebody else does just that."""
    free = ServingInterval.objects.select_for_update(skip_locked=True, of=("self",))
    interval = (
        free.select_related("organization", "instance", "replica__revision")
        .filter(id=id_, billed=False)
        .first()
    )
    if interval is None:
        return 0
    began, done = interval.started_at, interval.billed_seconds
    until = min(interval.ended_at or _vouched_for(interval), now)  # a clock may be put back
    seconds = max(done, int((until - began).total_seconds()))
    charged = 0
    if seconds > done:
        runs = interval.replica.revision or interval.instance
        charged = gpu.charge(
            gpu.Stretch(
                interval_id=interval.id,
                organization=interval.organization,
                instance_id=interval.instance_id,
                instance_name=interval.instance.name,
                model_id=runs.model_id,
                engine=runs.engine,
                gpu_type=interval.gpu_type,
                gpu_count=interval.gpu_count,
                began=began,
                from_second=done,
                to_second=seconds,
            )
        )
    interval.billed_seconds = seconds
    interval.billed = interval.ended_at is not None and interval.ended_at <= now
    interval.save(update_fields=["billed_seconds", "billed"])
    return charged


def _vouched_for(interval: ServingInterval) -> datetime:
    """Until when it is known to have served, where it still does."""
    seen = Node.objects.filter(name=interval.replica.node).values_list("seen_at", flat=True).first()
    return seen - NOTICED if seen else interval.started_at
