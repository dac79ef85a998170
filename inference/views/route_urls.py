from django.urls import path

from inference.views import routes

ONE = "routes/<uuid:route_id>/"

urlpatterns = [
    path("routes/", routes.index, name="routes"),
    path("routes/new/", routes.create, name="route-create"),
    path(ONE, routes.change, name="route"),
    path(f"{ONE}delete/", routes.remove, name="route-delete"),
]
