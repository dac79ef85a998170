from django import template
from django.utils.functional import Promise
from django.utils.translation import gettext

from inference import words
from inference.doctor import Diagnosis, Remedy, without_paths

register = template.Library()


@register.filter
def state_tone(state: str) -> str:
    """The colour of a state's label."""
    return words.STATES[state][0]


@register.filter
def state_word(state: str) -> Promise:
    """What people call a state."""
    return words.STATES[state][1]


@register.filter
def event_title(reason: str) -> Promise | str:
    """What people call an event."""
    return words.event_title(reason)


@register.filter
def translated(message: str) -> str:
    """A sentence that was stored in English, in the reader's language where it is known."""
    return gettext(message) if message else ""


@register.filter
def told(message: str) -> str:
    """The same for tenants: without where things lie on the machine."""
    return without_paths(translated(message))


@register.filter
def seconds(count: int) -> str:
    """A duration in the two largest units that matter: `40 s`, `3 min 20 s`, `2 h 5 min`."""
    minutes, rest = divmod(int(count), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return gettext("%(hours)d h %(minutes)d min") % {"hours": hours, "minutes": minutes}
    if minutes:
        return gettext("%(minutes)d min %(seconds)d s") % {"minutes": minutes, "seconds": rest}
    return gettext("%(seconds)d s") % {"seconds": rest}


@register.filter
def diagnosed(diagnosis: Diagnosis) -> str:
    """What was wrong, in a sentence."""
    return words.diagnosed(diagnosis)


@register.filter
def remedy_label(remedy: Remedy) -> str:
    """What the button says."""
    return words.remedy_label(remedy)
