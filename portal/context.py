from django.conf import settings
from django.http import HttpRequest


def installation(request: HttpRequest) -> dict[str, bool]:
    """What templates need to know of this installation."""
    return {"local_outbox": settings.LOCAL_OUTBOX}
