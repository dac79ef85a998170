from django.http import HttpRequest

from portal import outbox


def installation(request: HttpRequest) -> dict[str, bool]:
    """What templates need to know of this installation."""
    return {"local_outbox": outbox.is_open_to(request)}
