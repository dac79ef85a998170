from django.urls import path

from inference.views import catalog

urlpatterns = [
    path("models/", catalog.models, name="catalog"),
    path("models/search/", catalog.search, name="catalog-search"),
    path("models/<slug:source>/<path:model_id>/", catalog.model, name="model"),
]
