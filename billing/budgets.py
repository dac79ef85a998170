"""Budgets: what of them is spent, who is told, and when the gateways are to stop."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.mail import EmailMessage
from django.db import IntegrityError, transaction
from django.db.models import Sum
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _

from accounts.models import ApiKey, Organization, User
from accounts.roles import Permission, Role, allows
from billing import book, periods, wallet
from billing.models import Budget, BudgetAlert, UsageEvent
from portal.lib.ids import uuid7_floor

Announce = Callable[[BudgetAlert], None]


@dataclass(frozen=True)
class Standing:
    """A budget in a period."""

    budget: Budget
    currency: str
    start: datetime
    end: datetime
    spent: int  # nano-units

    @property
    def percent(self) -> int:
        """Rounded down, so that 100 is all of it."""
        return self.spent * 100 // self.budget.nano

    @property
    def left(self) -> int:
        return max(0, self.budget.nano - self.spent)


def set_budget(
    organization: Organization, by: User, budget: Budget | None = None, **wanted: Any
) -> Budget:
    """Make one, or change it: it is looked at at once. Raises ValidationError."""
    budget = budget or Budget(organization=organization, created_by=by)
    for name, value in wanted.items():
        setattr(budget, name, value)
    _check_subject(budget)
    budget.clean_fields()
    try:
        with transaction.atomic():
            budget.save()
            _note_stop(standing(budget))
    except IntegrityError as error:
        message = _("There is a budget for this and such a period already. Change that one.")
        raise ValidationError(message, code="taken") from error
    return budget


def _check_subject(budget: Budget) -> None:
    subject = budget.membership or budget.api_key or budget.project
    if subject is not None and subject.organization_id != budget.organization_id:
        raise ValidationError(_("There is no such member, key or project."), code="unknown")


def watch(announce: Announce, now: datetime | None = None) -> None:
    """Look at every budget: stop what is to stop, and have people told of each level once in a
    period. `announce` runs in the transaction that writes an alert down."""
    for budget in Budget.objects.select_related("organization", "membership", "api_key", "project"):
        look_at(budget, announce, now)


@transaction.atomic
def look_at(budget: Budget, announce: Announce, now: datetime | None = None) -> None:
    """Where several levels were passed at once, only the highest is told; all are written down."""
    found = standing(budget, now)
    _note_stop(found)
    new = [alert for level in sorted(budget.levels) if (alert := _alert(found, level))]
    if new:
        announce(new[-1])


def standing(budget: Budget, now: datetime | None = None) -> Standing:
    """What is spent of it in the period of this moment, which is one of the organization's time
    zone."""
    profile = wallet.profile_of(budget.organization)
    zone = ZoneInfo(profile.time_zone)
    start, end = periods.bounds(budget.period, now or timezone.now(), zone, budget.first_month)
    spent = _spent(budget, profile.currency, start, end)
    return Standing(budget, profile.currency, start, end, spent)


def _spent(budget: Budget, currency: str, start: datetime, end: datetime) -> int:
    """Of the organization as the ledger has it, GPU time included; of others what their requests
    have cost."""
    if budget.whose == budget.organization:
        return book.spent(budget.organization, currency, start, end)
    rows = UsageEvent.objects.filter(
        organization=budget.organization_id,
        request_id__gte=uuid7_floor(start),
        request_id__lt=uuid7_floor(end),
        currency=currency,
    )
    if budget.membership_id is not None:
        rows = rows.filter(membership_id=budget.membership_id)
    elif budget.project_id is not None:
        rows = rows.filter(project_id=budget.project_id)
    else:
        rows = rows.filter(key_id__in=_line_of_keys(budget.api_key))
    return rows.aggregate(all=Sum("cost_nano"))["all"] or 0


def _line_of_keys(key: ApiKey | None) -> list[UUID]:
    """The key and those that it has taken the place of: nobody gets a new budget by a new key."""
    line: list[UUID] = []
    while key is not None:
        line.append(key.id)
        key = key.rotated_from
    return line


def _note_stop(found: Standing) -> None:
    stop = found.budget.hard_stop and found.spent >= found.budget.nano
    until = found.end if stop else None
    if found.budget.stopped_until != until:
        Budget.objects.filter(id=found.budget.id).update(stopped_until=until)
        found.budget.stopped_until = until


def _alert(found: Standing, level: int) -> BudgetAlert | None:
    """The row, if this level is reached and nobody has written it before."""
    if found.spent * 100 < found.budget.nano * level:
        return None
    alert, new = BudgetAlert.objects.get_or_create(
        budget=found.budget,
        period_start=found.start,
        level=level,
        defaults={"spent_nano": found.spent, "budget_nano": found.budget.nano},
    )
    return alert if new else None


def recipients(alert: BudgetAlert) -> list[str]:
    """Who looks after the money, and the member whose budget, or whose key's, it is."""
    budget = alert.budget
    roles = [role for role in Role if allows(role, Permission.VIEW_BILLING)]
    members = budget.organization.memberships.filter(user__is_active=True)
    found = set(members.filter(role__in=roles).values_list("user__email", flat=True))
    own = budget.membership.user_id if budget.membership else None
    own = budget.api_key.created_by_id if budget.api_key else own
    found |= set(members.filter(user=own).values_list("user__email", flat=True))
    return sorted(found)


def mail(alert: BudgetAlert, email: str) -> None:
    """Tell one person. Raises OSError, SMTPException."""
    budget = alert.budget
    path = reverse("billing", args=[budget.organization.slug])
    context = {
        "alert": alert,
        "budget": budget,
        "organization": budget.organization,
        "currency": wallet.profile_of(budget.organization).currency,
        "link": f"{settings.PUBLIC_URL}{path}budgets/",
    }
    subject = render_to_string("billing/email/budget_subject.txt", context)
    body = render_to_string("billing/email/budget.txt", context)
    EmailMessage(" ".join(subject.split()), body, to=[email]).send()
