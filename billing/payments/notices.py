"""Letters about payments that went wrong while nobody was there."""

from collections.abc import Iterator
from datetime import timedelta

from django.conf import settings
from django.core.mail import EmailMessage
from django.template.loader import render_to_string
from django.utils import timezone

from accounts.models import Organization
from accounts.roles import Role
from billing.models import AutoTopUp, TopUp
from billing.payments.checkout import described

WORTH_TELLING = timedelta(days=2)


def tell_failures() -> int:
    """Tell the owners and whoever sees to billing of automatic top-ups that failed, once each; how
    many. Raises OSError, SMTPException: then the rest is told next time."""
    failed = TopUp.objects.filter(
        source=TopUp.Source.AUTOMATIC,
        state=TopUp.State.FAILED,
        told_at=None,
        created_at__gte=timezone.now() - WORTH_TELLING,
    ).select_related("organization")
    for top_up in failed:
        _mail(top_up)
        TopUp.objects.filter(id=top_up.id).update(told_at=timezone.now())
    return len(failed)


def recipients(organization: Organization) -> Iterator[str]:
    """Those who can do something about it."""
    members = organization.memberships.filter(role__in=[Role.OWNER, Role.BILLING])
    yield from members.order_by("user__email").values_list("user__email", flat=True)


def _mail(top_up: TopUp) -> None:
    organization = top_up.organization
    context = {
        "organization": organization,
        "amount": described(top_up),
        "reason": top_up.failure,
        "paused": AutoTopUp.objects.filter(organization=organization)
        .exclude(paused_at=None)
        .exists(),
        "link": f"{settings.PUBLIC_URL}/o/{organization.slug}/billing/top-up/",
    }
    subject = " ".join(render_to_string("billing/email/top_up_failed_subject.txt", context).split())
    body = render_to_string("billing/email/top_up_failed.txt", context)
    for address in recipients(organization):
        EmailMessage(subject, body, to=[address]).send()
