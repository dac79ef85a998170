"""What pages call the states, stages and reasons of an instance, and in which colour."""

from collections.abc import Mapping

from django.contrib.humanize.templatetags.humanize import intcomma
from django.utils.functional import Promise
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from inference.doctor import LOOPS, Diagnosis, Remedy, without_paths
from inference.engines import ENGINES
from inference.lifecycle import Desired, InstanceState, Stage
from inference.models import Instance
from inference.provisioners.base import Reason

STATES: dict[str, tuple[str, Promise]] = {
    InstanceState.REQUESTED: ("info", _("Requested")),
    InstanceState.PROVISIONING: ("info", _("Preparing")),
    InstanceState.LOADING: ("info", _("Loading")),
    InstanceState.READY: ("ok", _("Ready")),
    InstanceState.DEGRADED: ("warn", _("Degraded")),
    InstanceState.ASLEEP: ("idle", _("Asleep")),
    InstanceState.STOPPING: ("info", _("Stopping")),
    InstanceState.STOPPED: ("idle", _("Stopped")),
    InstanceState.FAILED: ("danger", _("Failed")),
}
# What that means, where the place itself says nothing more particular.
SENTENCES: dict[str, Promise] = {
    InstanceState.REQUESTED: _("It will be taken up in a moment."),
    InstanceState.READY: _("It answers requests."),
    InstanceState.ASLEEP: _("It wakes with the next request."),
    InstanceState.STOPPED: _("It holds no memory and answers no requests until it is started."),
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
# What a start may end in instead.
FAILED_STARTS: dict[str, Promise] = {
    InstanceState.FAILED: _("Failed"),
    "start_failed": _("Failed"),
}
# What happens by itself, while it is tried again.
WAITING: dict[str, Promise] = {
    Reason.INSUFFICIENT_CAPACITY: _(
        "It starts by itself when there is room. Stop another instance, or choose a smaller model "
        "or a shorter context."
    ),
    Reason.BACKEND_UNREACHABLE: _("It goes on by itself once that answers."),
    Reason.NODE_LOST: _("It starts again by itself once its machine is back."),
    Reason.PREEMPTED: _("It starts again by itself when it is its turn."),
}
EVENTS: dict[str, Promise] = {
    "requested": _("Requested"),
    "start_requested": _("Start requested"),
    "stop_requested": _("Stop requested"),
    "sleep_requested": _("Falls asleep"),
    "wake_requested": _("Wakes up"),
    "restart_requested": _("Restart requested"),
    "delete_requested": _("Deletion requested"),
    "deleted": _("Deleted"),
    "start_failed": _("Start failed"),
    "rolled_back": _("Rolled back"),
    "changed": _("Changed"),
    "replaced": _("Replaced"),
    "scaled": _("Replicas changed"),
    "sleep_changed": _("Sleep changed"),
    "schedule_changed": _("Schedule changed"),
    "adapter_added": _("Adapter added"),
    "adapter_ready": _("Adapter ready"),
    "adapter_failed": _("Adapter failed"),
    "adapter_removed": _("Adapter removed"),
    "approved": _("Approved"),
    "refused": _("Refused"),
    "unreachable": _("Out of reach"),
    "slo_missed": _("Target missed"),
    "slo_met": _("Target met again"),
    "reached": _("Reached again"),
    "credit_low": _("Credit is low"),
    "credit_used_up": _("Credit used up"),
}


def sentence(instance: Instance) -> Promise | str:
    """How it is, in a sentence."""
    if instance.desired == Desired.DELETED:
        return _("It is being deleted.")
    if instance.approval == Instance.Approval.PENDING and instance.desired == Desired.RUNNING:
        return _("It is large enough for an operator to decide first.")
    if instance.desired == Desired.ASLEEP and instance.state != InstanceState.ASLEEP:
        return _("It is falling asleep.")
    if instance.desired == Desired.STOPPED and instance.state != InstanceState.STOPPED:
        return _("It is being stopped.")
    return SENTENCES.get(instance.state, "")


def remedy(reason: str) -> Promise | str:
    """What happens by itself; empty where there is nothing to say."""
    return WAITING.get(reason, "")


def diagnosed(diagnosis: Diagnosis) -> str:
    """What was wrong, in a sentence."""
    facts = _shown(diagnosis.facts)
    if diagnosis.said:
        cause = without_paths(gettext(diagnosis.said))
    else:
        cause = gettext(diagnosis.sentence) % facts
    return f"{gettext(LOOPS) % facts} {cause}" if diagnosis.loops else cause


def remedy_label(remedy: Remedy) -> str:
    """What its button says."""
    return gettext(remedy.label) % _shown(remedy.figures)


def _shown(figures: Mapping[str, int | str]) -> dict[str, str]:
    return {name: intcomma(figure) for name, figure in figures.items()}


def settings_in_words(engine: str, chosen: Mapping[str, object]) -> list[tuple[str, object]]:
    """What was set, under the names that the form has for it, in the form's order."""
    named = []
    for setting in ENGINES[engine].settings:
        if setting.name in chosen:
            value = chosen[setting.name]
            if isinstance(value, bool):
                value = gettext("on") if value else gettext("off")
            named.append((gettext(setting.label), value))
    return named


def event_title(reason: str) -> Promise | str:
    """What happened, in a word or two."""
    if reason in EVENTS:
        return EVENTS[reason]
    if reason in STAGES:
        return STAGES[reason]
    return STATES[reason][1] if reason in STATES else reason
