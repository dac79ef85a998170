from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _

from accounts.models import ApiKey, Organization
from accounts.roles import Permission
from accounts.tenancy import TenantRequest, requires
from billing import analytics
from billing.models import UsageEvent
from inference.lifecycle import InstanceState
from inference.models import Instance
from portal.lib.snippets import snippets


def home(request: HttpRequest) -> HttpResponse:
    """The landing page; people who are signed in go to the organization they used last."""
    if not request.user.is_authenticated:
        examples = snippets(f"{settings.PUBLIC_URL}/v1", "my-model")
        return render(request, "portal/landing.html", {"snippets": examples})
    mine = Organization.objects.of(request.user)
    last = mine.filter(slug=request.session.get("organization", "")).first() or mine.first()
    return redirect(last or "organization-create")


@requires(Permission.VIEW)
def overview(request: TenantRequest) -> HttpResponse:
    """An organization's first page: what to do next, what runs, what was used today."""
    organization = request.organization
    instances = list(Instance.objects.for_organization(organization).alive()[:5])
    ready = next((i for i in instances if i.state == InstanceState.READY), None)
    today = analytics.Period.of_days(1, datetime.now(UTC).date())
    return render(
        request,
        "portal/overview.html",
        {
            "steps": _steps(organization, instances, ready),
            "instances": instances,
            "today": analytics.totals(analytics.within(organization, today)),
            "snippets": snippets(f"{settings.PUBLIC_URL}/v1", ready.name if ready else "my-model"),
        },
    )


def _steps(
    organization: Organization, instances: list[Instance], ready: Instance | None
) -> dict[str, Any]:
    """The way to the first token; each step ticks itself by what is really there."""
    org = {"org": organization.slug}
    called = UsageEvent.objects.for_organization(organization).filter(status=200).exists()
    has_key = (
        ApiKey.objects.for_organization(organization).usable().filter(kind=ApiKey.Kind.API).exists()
    )
    steps = [
        {
            "title": _("Start an instance"),
            "text": _("Pick a model; the demo model runs on any machine."),
            "action": _("See its progress") if instances else _("Pick a model"),
            "url": instances[0].get_absolute_url() if instances else reverse("catalog", kwargs=org),
            "done": ready is not None or called,
        },
        {
            "title": _("Make an API key"),
            "text": _("It is shown once; keep it where your programs keep secrets."),
            "action": _("Make a key"),
            "url": reverse("keys", kwargs=org),
            "done": has_key,
        },
        {
            "title": _("Send the first request"),
            "text": _("From your own code, or right here in the playground."),
            "action": _("Open the playground"),
            "url": reverse("playground", kwargs=org),
            "done": called,
        },
    ]
    for step in steps:
        if not step["done"]:
            step["next"] = True
            break
    done = sum(bool(step["done"]) for step in steps)
    return {"list": steps, "count": done, "done": done == len(steps)}
