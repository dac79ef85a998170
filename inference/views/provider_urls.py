from django.urls import path

from inference.views import providers

ONE = "providers/<uuid:provider_id>/"

urlpatterns = [
    path("providers/", providers.index, name="providers"),
    path("providers/new/", providers.create, name="provider-create"),
    path(f"{ONE}secret/", providers.rotate, name="provider-rotate"),
    path(f"{ONE}remove/", providers.remove, name="provider-remove"),
]
