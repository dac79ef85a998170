"""`/metrics`: what Prometheus may know of this machine's gateways and journals."""

import hmac

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.urls import path
from prometheus_client import CONTENT_TYPE_LATEST

from inference.gateway import scrape
from portal.lib.local import is_local


async def page(request: HttpRequest) -> HttpResponse:
    """With METRICS_TOKEN set, to whoever brings it; else to programs on this machine."""
    token = settings.ENV.metrics_token
    if token:
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        allowed = hmac.compare_digest(given.encode(), token.encode())
    else:
        allowed = is_local(request)
    if not allowed:
        text = "Send METRICS_TOKEN as a bearer token, or ask from this machine.\n"
        return HttpResponse(text, status=403, content_type="text/plain")
    return HttpResponse(await scrape.scrape(settings.ENV), content_type=CONTENT_TYPE_LATEST)


def nothing(request: HttpRequest, exception: Exception) -> HttpResponse:
    return HttpResponse("Only /metrics is here.\n", status=404, content_type="text/plain")


# All that `modelport metrics` serves.
urlpatterns = [path("metrics", page)]
handler404 = nothing
