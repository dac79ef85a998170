"""Projects: what keys are for."""

from http import HTTPStatus
from uuid import UUID

from django.contrib import messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.db.models import Count, Q
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _

from accounts.forms import ProjectForm
from accounts.models import ApiKey, Project
from accounts.roles import Permission
from accounts.tenancy import TenantRequest, requires


@requires(Permission.VIEW)
def index(request: TenantRequest) -> HttpResponse:
    """All of them, and the form that adds one for those who may."""
    may_manage = request.membership.allows(Permission.MANAGE_ORGANIZATION)
    form = ProjectForm(request.POST or None)
    if request.method == "POST":
        if not may_manage:
            raise PermissionDenied
        if form.is_valid() and _begun(request, form):
            messages.success(request, _("The project is there. Choose it when you make a key."))
            return redirect("projects", request.organization.slug)
    usable = Q(keys__revoked_at=None) & ~Q(keys__kind=ApiKey.Kind.PLAYGROUND)
    mine = Project.objects.for_organization(request.organization)
    context = {
        "projects": mine.annotate(key_count=Count("keys", filter=usable)).order_by(
            "-archived_at", "name", "id"
        ),
        "form": form,
        "may_manage": may_manage,
    }
    status = HTTPStatus.UNPROCESSABLE_ENTITY if form.errors else HTTPStatus.OK
    return render(request, "accounts/projects.html", context, status=status)


@requires(Permission.MANAGE_ORGANIZATION)
def archive(request: TenantRequest, project_id: UUID) -> HttpResponse:
    """Ask, then let no new key be made for it."""
    mine = Project.objects.for_organization(request.organization).open()
    project: Project = get_object_or_404(mine, id=project_id)
    if request.method != "POST":
        return render(request, "accounts/project_archive.html", {"project": project})
    project.archive()
    messages.success(request, _("%(name)s is archived.") % {"name": project.name})
    return redirect("projects", request.organization.slug)


def _begun(request: TenantRequest, form: ProjectForm) -> bool:
    try:
        Project.begin(request.organization, request.user, form.cleaned_data["name"])
    except ValidationError as problem:
        form.add_error(None, problem)
    return not form.errors
