"""What runs and how it answers."""

from inference.models.adapter import Adapter
from inference.models.catalog import HubCredential
from inference.models.event import InstanceEvent
from inference.models.fit_record import FitRecord
from inference.models.hardware import Node
from inference.models.instance import Instance
from inference.models.limit import Limit
from inference.models.provider import Provider
from inference.models.quota import Quota
from inference.models.replica import Replica
from inference.models.revision import InstanceRevision
from inference.models.route import Route, RouteTarget
from inference.models.sample import LastLook, MetricSample
from inference.models.schedule import ScheduleEntry
from inference.models.serving import ServingInterval
from inference.models.slo import SloAlert, SloTarget

__all__ = [
    "FitRecord",
    "Adapter",
    "HubCredential",
    "Instance",
    "InstanceEvent",
    "InstanceRevision",
    "LastLook",
    "Limit",
    "MetricSample",
    "Node",
    "Provider",
    "Quota",
    "Replica",
    "Route",
    "RouteTarget",
    "ScheduleEntry",
    "ServingInterval",
    "SloAlert",
    "SloTarget",
]
