"""Mail of an installation that has no mail server yet: on the terminal, and on a page.

The page shows codes that sign people in, so it answers to this machine alone, and not at all once
EMAIL_URL names a mail server. For the same reason letters are never written into a log: a process
whose output is no terminal says only that there is one, and `modelport up` shows it.
"""

import email
import email.policy
import sys
from collections.abc import Sequence
from email.message import EmailMessage as ParsedMessage
from pathlib import Path

from django.conf import settings
from django.core.mail.backends.base import BaseEmailBackend
from django.core.mail.message import EmailMessage
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render

from portal.lib.ids import uuid7
from portal.lib.local import is_local

KEPT = 50  # messages


def folder() -> Path:
    """Where the messages are, one file each."""
    path: Path = settings.ENV.home / "mail"
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


class EmailBackend(BaseEmailBackend):
    """Keeps each message as a file and says so on the terminal."""

    def send_messages(self, email_messages: Sequence[EmailMessage]) -> int:
        for message in email_messages:
            path = folder() / f"{uuid7().hex}.eml"
            draft = path.with_suffix(".draft")  # so that nobody reads half of one
            draft.write_bytes(message.message().as_bytes())
            draft.replace(path)
            print(told(path) if sys.stdout.isatty() else f"Mail: {path}", flush=True)
        for old in letters()[:-KEPT]:
            old.unlink(missing_ok=True)
        return len(email_messages)


def letters() -> list[Path]:
    """The messages' files, oldest first."""
    return sorted(folder().glob("*.eml"))


def told(path: Path) -> str:
    """A message as the terminal shows it. What people typed into it cannot move the cursor."""
    letter = _parsed(path)
    text = f"Mail to {letter['to']}: {letter['subject']}\n{letter['body']}".rstrip()
    lines = ["".join(c for c in line if c.isprintable()) for line in text.splitlines()]
    return "\n    ".join(lines)


def page(request: HttpRequest) -> HttpResponse:
    """The messages, newest first; for the person who sits at this machine."""
    if not is_open_to(request):
        raise Http404
    messages = [_parsed(path) for path in reversed(letters())]
    return render(request, "portal/outbox.html", {"letters": messages})


def is_open_to(request: HttpRequest) -> bool:
    """Whether there is an outbox, and the request comes from a browser on this machine.

    https, which we do not speak ourselves, gives a proxy away.
    """
    return settings.LOCAL_OUTBOX and not settings.SECURE_COOKIES and is_local(request)


def _parsed(path: Path) -> dict[str, str]:
    message = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
    body = message.get_body(("plain",)) if isinstance(message, ParsedMessage) else None
    return {
        "to": str(message["To"]),
        "subject": str(message["Subject"]),
        "date": str(message["Date"]),
        "body": body.get_content() if body else "",
    }
