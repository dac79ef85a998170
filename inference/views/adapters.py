"""The LoRA adapters of an instance: how each stands, one more, one less."""

from http import HTTPStatus
from typing import Any
from uuid import UUID

from django import forms
from django.contrib import messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_http_methods, require_POST

from accounts.forms import StyledForm
from accounts.roles import Permission
from accounts.tenancy import TenantRequest, requires
from inference import adapters
from inference.forms import add_errors, name_field
from inference.hub import HubError
from inference.models import Adapter, Instance
from inference.models.adapter import lora_of, no_room
from inference.views.instance import common, fetch, gone

TONES = {
    Adapter.State.REQUESTED: "idle",
    Adapter.State.LOADING: "info",
    Adapter.State.READY: "ok",
    Adapter.State.FAILED: "danger",
    Adapter.State.REMOVING: "info",
}
HUB = (Adapter.Source.HUB.value, Adapter.Source.HUB.label)
LOCAL = (Adapter.Source.LOCAL.value, Adapter.Source.LOCAL.label)
MOVING = {Adapter.State.LOADING, Adapter.State.REMOVING}
TEXT = {"class": "input w-full", "autocomplete": "off", "spellcheck": "false"}


class AdapterForm(StyledForm):
    """A name for programs, and where the files come from."""

    name = name_field(gettext_lazy("Programs say this name as “model”."))
    source = forms.ChoiceField(
        label=gettext_lazy("Source"),
        choices=[HUB, LOCAL],
        widget=forms.Select(attrs={"class": "select w-full"}),
    )
    model_id = forms.CharField(
        label=gettext_lazy("Adapter"),
        max_length=512,
        widget=forms.TextInput(attrs=TEXT | {"list": "on-hand"}),
        help_text=gettext_lazy(
            "As the hub knows it (owner/name), or a folder with adapter_config.json and "
            "adapter_model.safetensors below the operator's folders of models."
        ),
    )
    model_revision = forms.CharField(
        label=gettext_lazy("Revision"),
        max_length=64,
        required=False,
        widget=forms.TextInput(attrs=TEXT),
        help_text=gettext_lazy("A branch, tag or commit. Empty: as it is now, pinned."),
    )

    def __init__(self, *args: Any, on_hand: list[str], **kwargs: Any) -> None:
        """`on_hand` are the adapters in the operator's folders."""
        super().__init__(*args, **kwargs)
        self.on_hand = on_hand
        if not on_hand:
            self.fields["source"].choices = [HUB]  # type: ignore[attr-defined]

    def save(self, instance: Instance, by: Any) -> Adapter | None:
        """Add it; None, with errors in the form, where that is refused."""
        try:
            return adapters.add(instance, by, **self.cleaned_data)
        except ValidationError as problem:
            add_errors(self, problem)
        except HubError as problem:
            self.add_error("model_id", problem.sentence)
        return None


@require_http_methods(["GET", "POST"])
@requires(Permission.VIEW)
def index(request: TenantRequest, instance_id: UUID) -> HttpResponse:
    """All of them, and the form for one more."""
    instance = fetch(request, instance_id)
    if instance is None:
        return gone(request)
    if request.method == "GET":
        return _page(request, instance, AdapterForm(on_hand=adapters.on_hand()))
    if not request.membership.allows(Permission.MANAGE_INSTANCES):
        raise PermissionDenied
    form = AdapterForm(request.POST, on_hand=adapters.on_hand())
    if form.is_valid() and (adapter := form.save(instance, request.user)):
        messages.success(request, _("%(name)s is on its way.") % {"name": adapter.name})
        return redirect(request.path)
    return _page(request, instance, form)


@require_POST
@requires(Permission.MANAGE_INSTANCES)
def remove(request: TenantRequest, instance_id: UUID, adapter_id: UUID) -> HttpResponse:
    """Take one off."""
    theirs = Adapter.objects.for_organization(request.organization).filter(removed_at=None)
    adapter = get_object_or_404(theirs, id=adapter_id, instance=instance_id)
    adapter.remove(request.user)
    messages.success(request, _("%(name)s is being removed.") % {"name": adapter.name})
    return redirect(
        "instance-adapters", org=request.organization.slug, instance_id=adapter.instance_id
    )


def _page(request: TenantRequest, instance: Instance, form: AdapterForm) -> HttpResponse:
    theirs = list(instance.adapters.filter(removed_at=None).select_related("created_by"))
    context = common(request, instance, instance.replicas.first()) | {
        "adapters": [(adapter, TONES[Adapter.State(adapter.state)]) for adapter in theirs],
        "adapters_move": any(adapter.state in MOVING for adapter in theirs),
        "no_room": no_room(instance) if lora_of(instance) is None else "",
        "form": form,
        "on_hand": form.on_hand,
    }
    if request.headers.get("HX-Request"):
        return render(request, "inference/instance_adapters.html#live", context)
    status = HTTPStatus.UNPROCESSABLE_ENTITY if form.errors else HTTPStatus.OK
    return render(request, "inference/instance_adapters.html", context, status=status)
