from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render

from accounts.models import Organization
from accounts.roles import Permission
from accounts.tenancy import TenantRequest, requires


def home(request: HttpRequest) -> HttpResponse:
    """The landing page; people who are signed in go to the organization they used last."""
    if not request.user.is_authenticated:
        return render(request, "portal/landing.html")
    mine = Organization.objects.of(request.user)
    last = mine.filter(slug=request.session.get("organization", "")).first() or mine.first()
    return redirect(last) if last else render(request, "portal/landing.html")


@requires(Permission.VIEW)
def overview(request: TenantRequest) -> HttpResponse:
    """An organization's first page."""
    return render(request, "portal/overview.html")
