from django.urls import path

from inference.views import credentials

urlpatterns = [
    path("settings/hub-token/", credentials.hub_token, name="hub-token"),
    path("settings/hub-token/remove/", credentials.remove_hub_token, name="hub-token-remove"),
]
