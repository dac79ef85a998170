"""Mail of an installation that has no mail server yet: on the terminal, and on a page.

The page shows codes that sign people in, so it answers to this machine alone, and not at all once
EMAIL_URL names a mail server.
"""

import email
import email.policy
import ipaddress
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
            path.write_bytes(message.message().as_bytes())
            print(
                f"Mail to {', '.join(message.to)}: {message.subject}\n{message.body}",
                file=sys.stdout,
                flush=True,
            )
        for old in sorted(folder().glob("*.eml"))[:-KEPT]:
            old.unlink(missing_ok=True)
        return len(email_messages)


def page(request: HttpRequest) -> HttpResponse:
    """The messages, newest first; for the person who sits at this machine."""
    if not settings.LOCAL_OUTBOX or not _from_here(request):
        raise Http404
    messages = [_parsed(path) for path in sorted(folder().glob("*.eml"), reverse=True)]
    return render(request, "portal/outbox.html", {"letters": messages})


def _from_here(request: HttpRequest) -> bool:
    """Whether the request comes from a program on this machine and through no proxy."""
    if "HTTP_X_FORWARDED_FOR" in request.META or "HTTP_FORWARDED" in request.META:
        return False
    try:
        return ipaddress.ip_address(request.META.get("REMOTE_ADDR", "")).is_loopback
    except ValueError:
        return False


def _parsed(path: Path) -> dict[str, str]:
    message = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
    body = message.get_body(("plain",)) if isinstance(message, ParsedMessage) else None
    return {
        "to": str(message["To"]),
        "subject": str(message["Subject"]),
        "date": str(message["Date"]),
        "body": body.get_content() if body else "",
    }
