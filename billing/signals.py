"""What billing tells others: the one thing that they cannot ask for themselves.

Sent once the change is committed, with `organization`.
"""

from django.dispatch import Signal

organization_suspended = Signal()  # its credit is used up: what costs by the hour must stop
organization_resumed = Signal()  # there is credit again
