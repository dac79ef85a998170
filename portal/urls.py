from django.urls import include, path

from portal import health, metrics, outbox

urlpatterns = [
    path("healthz", health.healthz, name="healthz"),
    path("outbox/", outbox.page, name="outbox"),
    path("metrics", metrics.page, name="metrics"),
    path("i18n/", include("django.conf.urls.i18n")),
    path("api/v1/", include("portal.api")),
    path("ops/", include("portal.ops.urls")),
    path("", include("portal.dashboard.urls")),
    path("", include("accounts.urls")),
    path("", include("inference.urls")),
    path("", include("billing.urls")),
]
