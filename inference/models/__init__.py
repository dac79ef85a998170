"""What runs and how it answers."""

from inference.models.catalog import HubCredential
from inference.models.event import InstanceEvent
from inference.models.hardware import Node
from inference.models.instance import Instance
from inference.models.limit import Limit
from inference.models.provider import Provider
from inference.models.replica import Replica
from inference.models.route import Route, RouteTarget

__all__ = [
    "HubCredential",
    "Instance",
    "InstanceEvent",
    "Limit",
    "Node",
    "Provider",
    "Replica",
    "Route",
    "RouteTarget",
]
