"""What can go wrong in a verb, by what the caller can do about it.

Wrong input is Django's ValidationError (by field), a role too low its PermissionDenied, what is
not there its Http404. Beside them:

    Refusal             a sentence for people; nothing was changed
    ├── Conflict        the present state does not allow it: look again, then decide
    └── Unavailable     something outside is away: the same request may succeed in a moment

REST answers each by itself (see `portal.lib.problems`); pages show `str(error)`.
"""

from typing import ClassVar

from django.utils.functional import Promise


class Refusal(Exception):
    """Nothing was changed; `str()` of it is the sentence to show."""

    retryable: ClassVar[bool] = False

    def __init__(self, sentence: str | Promise) -> None:
        super().__init__(sentence)

    def __str__(self) -> str:
        return str(self.args[0])  # translated where it is shown


class Conflict(Refusal):
    """The present state of things does not allow it."""


class Unavailable(Refusal):
    """Something that we depend on does not answer at the moment."""

    retryable = True
