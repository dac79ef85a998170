from django.urls import path

from inference.views import instances

urlpatterns = [
    path("instances/", instances.index, name="instances"),
    path("instances/new/", instances.create, name="instance-create"),
    path("instances/<uuid:instance_id>/", instances.show, name="instance"),
    path("instances/<uuid:instance_id>/events/", instances.events, name="instance-events"),
    path("instances/<uuid:instance_id>/logs/", instances.logs, name="instance-logs"),
    path(
        "instances/<uuid:instance_id>/logs/download/",
        instances.download_log,
        name="instance-log-download",
    ),
    path("instances/<uuid:instance_id>/<slug:verb>/", instances.act, name="instance-act"),
]
