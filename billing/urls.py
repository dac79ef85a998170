from django.urls import path

from billing import views

urlpatterns = [
    path("o/<slug:org>/usage/", views.usage, name="usage"),
    path("o/<slug:org>/usage/export/", views.export, name="usage-export"),
]
