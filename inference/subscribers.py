"""Hears what billing tells: the one place where a signal is used."""

from typing import Any

from accounts.models import Organization
from billing.signals import organization_resumed, organization_suspended
from inference import credit_watch, tasks


def suspended(organization: Organization, **given: Any) -> None:
    credit_watch.stop(organization)
    tasks.announce_credit(organization, credit_watch.USED_UP)


def resumed(organization: Organization, **given: Any) -> None:
    credit_watch.start_again(organization)


def listen() -> None:
    organization_suspended.connect(suspended)
    organization_resumed.connect(resumed)
