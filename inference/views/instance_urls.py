from django.urls import path

from inference.views import (
    adapters,
    instance,
    instance_settings,
    instances,
    metrics,
    remedies,
    revisions,
)

ONE = "instances/<uuid:instance_id>/"

urlpatterns = [
    path("instances/", instances.index, name="instances"),
    path("instances/new/", instances.create, name="instance-create"),
    path(ONE, instance.show, name="instance"),
    path(f"{ONE}metrics/", metrics.show, name="instance-metrics"),
    path(f"{ONE}events/", instance.events, name="instance-events"),
    path(f"{ONE}logs/", instance.logs, name="instance-logs"),
    path(f"{ONE}logs/download/", instance.download_log, name="instance-log-download"),
    path(f"{ONE}settings/", instance_settings.show, name="instance-settings"),
    path(f"{ONE}settings/fit/", instance_settings.fit, name="instance-fit"),
    path(f"{ONE}settings/schedule/", instance_settings.schedule, name="instance-schedule"),
    path(f"{ONE}revisions/", revisions.index, name="instance-revisions"),
    path(f"{ONE}revisions/<int:number>/restore/", revisions.restore, name="instance-restore"),
    path(f"{ONE}adapters/", adapters.index, name="instance-adapters"),
    path(
        f"{ONE}adapters/<uuid:adapter_id>/remove/",
        adapters.remove,
        name="instance-adapter-remove",
    ),
    path(f"{ONE}attempts/", remedies.index, name="instance-attempts"),
    path(f"{ONE}remedy/", remedies.apply, name="instance-remedy"),
    path(f"{ONE}<slug:verb>/", instances.act, name="instance-act"),
]
