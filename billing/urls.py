from django.urls import path

from billing import price_pages, views

urlpatterns = [
    path("pricing/", price_pages.pricing, name="pricing"),
    path("o/<slug:org>/usage/", views.usage, name="usage"),
    path("o/<slug:org>/usage/export/", views.export, name="usage-export"),
]
