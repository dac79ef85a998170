from django.urls import include, path

urlpatterns = [
    path("o/<slug:org>/", include("inference.views.catalog_urls")),
    path("o/<slug:org>/", include("inference.views.limits_urls")),
    path("o/<slug:org>/", include("inference.views.route_urls")),
    path("o/<slug:org>/", include("inference.views.provider_urls")),
    path("o/<slug:org>/", include("inference.views.instance_urls")),
    path("o/<slug:org>/", include("inference.views.credentials_urls")),
    path("o/<slug:org>/", include("inference.playground.urls")),
]
