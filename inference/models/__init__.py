"""What runs and how it answers."""

from inference.models.catalog import HubCredential
from inference.models.event import InstanceEvent
from inference.models.hardware import Node
from inference.models.instance import Instance
from inference.models.replica import Replica

__all__ = ["HubCredential", "Instance", "InstanceEvent", "Node", "Replica"]
