from django.urls import path

from inference.views import instance, instances, remedies

ONE = "instances/<uuid:instance_id>/"

urlpatterns = [
    path("instances/", instances.index, name="instances"),
    path("instances/new/", instances.create, name="instance-create"),
    path(ONE, instance.show, name="instance"),
    path(f"{ONE}events/", instance.events, name="instance-events"),
    path(f"{ONE}logs/", instance.logs, name="instance-logs"),
    path(f"{ONE}logs/download/", instance.download_log, name="instance-log-download"),
    path(f"{ONE}attempts/", remedies.index, name="instance-attempts"),
    path(f"{ONE}remedy/", remedies.apply, name="instance-remedy"),
    path(f"{ONE}<slug:verb>/", instances.act, name="instance-act"),
]
