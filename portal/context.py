from django.conf import settings
from django.http import HttpRequest

from portal import outbox


def installation(request: HttpRequest) -> dict[str, bool | str]:
    """What templates need to know of this installation."""
    return {
        "local_outbox": outbox.is_open_to(request),
        "payment_mode": settings.ENV.payment_mode,
    }
