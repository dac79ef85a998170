"""Waking an instance because a request waits for it: the meter's part, for the gateways beside it.

They ask however often they like. The instance's own verb decides who was first.
"""

import logging
from uuid import UUID

from django.db import Error, connection

from inference.models import Instance

log = logging.getLogger(__name__)


def wake(instance_id: UUID) -> bool:
    """Whether it wakes by this. In a thread of its own, whose connection is closed again."""
    try:
        instance = Instance.objects.alive().filter(id=instance_id).first()
        return instance is not None and instance.request_wake(by=None)
    except Error as error:
        log.warning("an instance is not woken yet, for the database is away: %s", error)
        return False
    finally:
        connection.close()
