"""What pages call the states, stages and reasons of an instance, and in which colour."""

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from inference.lifecycle import InstanceState, Stage
from inference.provisioners.base import Reason

STATES: dict[str, tuple[str, Promise]] = {
    InstanceState.REQUESTED: ("info", _("Requested")),
    InstanceState.PROVISIONING: ("info", _("Preparing")),
    InstanceState.LOADING: ("info", _("Loading")),
    InstanceState.READY: ("ok", _("Ready")),
    InstanceState.DEGRADED: ("warn", _("Not answering")),
    InstanceState.ASLEEP: ("idle", _("Asleep")),
    InstanceState.STOPPING: ("info", _("Stopping")),
    InstanceState.STOPPED: ("idle", _("Stopped")),
    InstanceState.FAILED: ("danger", _("Failed")),
}
# In the order in which they pass; every start goes through some of them.
STAGES: dict[str, Promise] = {
    Stage.QUEUED: _("In line"),
    Stage.INSTALLING_ENGINE: _("Installing the engine"),
    Stage.DOWNLOADING: _("Downloading the model"),
    Stage.STARTING: _("Starting"),
    Stage.LOADING: _("Loading weights"),
    Stage.WARMING: _("First words"),
    InstanceState.READY: _("Ready"),
}
# What a person can do about it.
REMEDIES: dict[str, Promise] = {
    Reason.INSUFFICIENT_CAPACITY: _(
        "It starts by itself when there is room. Stop another instance, or choose a smaller model "
        "or a shorter context."
    ),
    Reason.QUOTA_EXCEEDED: _("Ask the operator for a larger quota."),
    Reason.IMAGE_ERROR: _(
        "The engine could not be installed. Ask the operator to run “modelport doctor”, then start "
        "the instance again."
    ),
    Reason.BAD_ARGUMENTS: _("Choose other settings or another model; the log says more."),
    Reason.OUT_OF_MEMORY: _("Choose a shorter context, a smaller model, or more memory."),
    Reason.LOAD_TIMEOUT: _("The machine may be busy. Start the instance again in a while."),
    Reason.NODE_LOST: _("It starts again by itself once its machine is back."),
    Reason.CRASHED: _("The log has the engine's last words. Start it again, or change a setting."),
    Reason.BACKEND_UNREACHABLE: _("It is tried again by itself."),
}
EVENTS: dict[str, Promise] = {
    "requested": _("Requested"),
    "start_requested": _("Start requested"),
    "stop_requested": _("Stop requested"),
    "restart_requested": _("Restart requested"),
    "delete_requested": _("Deletion requested"),
    "deleted": _("Deleted"),
}


def event_title(reason: str) -> Promise | str:
    """What happened, in a word or two."""
    if reason in EVENTS:
        return EVENTS[reason]
    if reason in STAGES:
        return STAGES[reason]
    return STATES[reason][1] if reason in STATES else reason
