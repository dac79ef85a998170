from django.urls import include, path

urlpatterns = [
    path("", include("portal.dashboard.urls")),
    path("", include("accounts.urls")),
    path("", include("inference.urls")),
    path("", include("billing.urls")),
]
