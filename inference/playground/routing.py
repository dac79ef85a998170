from django.urls import path

from inference.playground.consumer import PlaygroundConsumer

websocket_urlpatterns = [path("ws/o/<slug:org>/playground/", PlaygroundConsumer.as_asgi())]
