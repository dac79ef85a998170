"""Limits of a key, a member, an instance, an organization: one form for all four."""

from collections.abc import Sequence
from decimal import Decimal
from http import HTTPStatus
from typing import Any
from uuid import UUID

from django import forms
from django.contrib import messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.formats import number_format
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from accounts.forms import StyledForm
from accounts.models import ApiKey, Membership
from accounts.roles import Permission
from accounts.tenancy import TenantRequest, requires
from billing import wallet
from billing.models.price import NANO
from inference.gateway.tables import Meter, Window
from inference.models import Limit
from inference.models.limit import KINDS, MAX_AMOUNT, Subject, may_set
from inference.views import instance as instance_pages

Kind = tuple[Meter, Window]
NUMBER = {"class": "input num w-full", "inputmode": "numeric"}


class LimitsForm(StyledForm):
    """A field for each limit there is; empty: no limit."""

    def __init__(self, *args: Any, currency: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for kind, label in KINDS.items():
            name = "_".join(kind)
            if kind[0] is Meter.SPEND:
                self.fields[name] = forms.DecimalField(
                    label=f"{label} ({currency})",
                    required=False,
                    min_value=0,
                    max_value=MAX_AMOUNT // NANO,
                    decimal_places=9,
                    widget=forms.NumberInput(attrs=NUMBER | {"step": "any"}),
                )
            else:
                self.fields[name] = forms.IntegerField(
                    label=str(label),
                    required=False,
                    min_value=0,
                    max_value=MAX_AMOUNT,
                    widget=forms.NumberInput(attrs=NUMBER),
                )

    @classmethod
    def of(cls, subject: Subject, currency: str) -> "LimitsForm":
        """Filled with what holds now."""
        initial = {
            "_".join(kind): plain(Decimal(amount) / NANO) if kind[0] is Meter.SPEND else amount
            for kind, amount in Limit.amounts_of(subject).items()
        }
        return cls(initial=initial, currency=currency)

    def amounts(self) -> dict[Kind, int | None]:
        """What `Limit.set_for` is to be told."""
        return {kind: self._amount(kind) for kind in KINDS}

    def _amount(self, kind: Kind) -> int | None:
        value = self.cleaned_data["_".join(kind)]
        if value is None or kind[0] is not Meter.SPEND:
            return None if value is None else int(value)
        return int(value * NANO)


class QueueForm(StyledForm):
    """Whether requests wait where an instance is at its limit."""

    queue_size = forms.IntegerField(
        label=gettext_lazy("Requests that may wait"),
        min_value=0,
        max_value=10_000,
        widget=forms.NumberInput(attrs=NUMBER),
        help_text=gettext_lazy("0: whoever finds all places taken is refused at once."),
    )
    queue_seconds = forms.IntegerField(
        label=gettext_lazy("Longest wait, in seconds"),
        min_value=1,
        max_value=600,
        widget=forms.NumberInput(attrs=NUMBER),
        help_text=gettext_lazy("After that the request is refused."),
    )


@requires(Permission.VIEW)
def organization(request: TenantRequest) -> HttpResponse:
    """What all of the organization's keys may use together."""
    context = {"title": _("Limits of the organization"), "back": "organization-settings"}
    return _limits(request, request.organization, "inference/limits_settings.html", context)


@requires(Permission.VIEW)
def member(request: TenantRequest, member_id: UUID) -> HttpResponse:
    """What all keys of one person may use together. Others' are for those who set them."""
    members = Membership.objects.for_organization(request.organization)
    subject: Membership = get_object_or_404(members.select_related("user"), id=member_id)
    if subject != request.membership and not may_set(subject, request.membership):
        raise PermissionDenied
    context = {"title": _("Limits of %s") % subject.user.email, "member": subject}
    above = [(_("Organization"), request.organization)]
    return _limits(request, subject, "inference/limits_member.html", context, above)


@requires(Permission.USE)
def key(request: TenantRequest, key_id: UUID) -> HttpResponse:
    """What one key may use."""
    keys = ApiKey.objects.visible_to(request.membership).filter(kind=ApiKey.Kind.API)
    subject: ApiKey = get_object_or_404(keys, id=key_id)
    above: list[tuple[str, Subject]] = []
    maker = request.organization.memberships.filter(user=subject.created_by).first()
    if maker is not None:
        above.append((_("Member"), maker))
    above.append((_("Organization"), request.organization))
    context = {"title": subject.name, "key": subject}
    return _limits(request, subject, "inference/limits_key.html", context, above)


@requires(Permission.VIEW)
def instance(request: TenantRequest, instance_id: UUID) -> HttpResponse:
    """What all callers of one instance may use together, and who may wait for a turn."""
    subject = instance_pages.fetch(request, instance_id)
    if subject is None:
        raise Http404
    queue = QueueForm(
        request.POST if "queue_size" in request.POST else None,
        initial={"queue_size": subject.queue_size, "queue_seconds": subject.queue_seconds},
    )
    if queue.is_bound:
        if not may_set(subject, request.membership):
            raise PermissionDenied
        if queue.is_valid():
            subject.set_queue(queue.cleaned_data["queue_size"], queue.cleaned_data["queue_seconds"])
            messages.success(request, _("Saved. It holds within a second."))
            return redirect(request.path)
    context = instance_pages.common(request, subject, subject.replicas.first()) | {"queue": queue}
    return _limits(request, subject, "inference/limits_instance.html", context)


def _limits(
    request: TenantRequest,
    subject: Subject,
    template: str,
    context: dict[str, Any],
    above: Sequence[tuple[str, Subject]] = (),
) -> HttpResponse:
    """The page of a subject's limits: `above` are the others that hold beside them."""
    may_change = may_set(subject, request.membership)
    currency = wallet.currency_of(request.organization)
    form = LimitsForm.of(subject, currency)
    other_form: forms.Form | None = context.get("queue")
    if request.method == "POST" and not (other_form and other_form.is_bound):
        if not may_change:
            raise PermissionDenied
        form = LimitsForm(request.POST, currency=currency)
        if form.is_valid() and _saved(form, subject, request.membership):
            messages.success(request, _("Saved. It holds within a second."))
            return redirect(request.path)
    context |= {
        "form": form,
        "may_change": may_change,
        "scopes": [_("Here"), *(name for name, _subject in above)],
        "rows": [],
    }
    if above or not may_change:  # else the form has said it all
        subjects = [subject, *(other for _name, other in above)]
        context["rows"] = _together(subjects, currency)
    refused = form.errors or (other_form and other_form.errors)
    status = HTTPStatus.UNPROCESSABLE_ENTITY if refused else HTTPStatus.OK
    return render(request, template, context, status=status)


def _saved(form: LimitsForm, subject: Subject, by: Membership) -> bool:
    try:
        Limit.set_for(subject, form.amounts(), by)
    except ValidationError as error:
        form.add_error(None, error.messages)
        return False
    return True


def _together(subjects: Sequence[Subject], currency: str) -> list[dict[str, Any]]:
    """Of each kind of limit that is set: what each subject has, and which is met first."""
    of_each = [Limit.amounts_of(subject) for subject in subjects]
    rows = []
    for kind, label in KINDS.items():
        amounts = [amounts.get(kind) for amounts in of_each]
        tightest = min((a for a in amounts if a is not None), default=None)
        if tightest is None:
            continue
        cells = [
            {"text": "" if a is None else shown(kind, a, currency), "first": a == tightest}
            for a in amounts
        ]
        rows.append({"label": label, "cells": cells})
    return rows


def shown(kind: Kind, amount: int, currency: str) -> str:
    """The amount as people read it: `1,200`, `25.50 USD`."""
    if kind[0] is not Meter.SPEND:
        return number_format(amount, force_grouping=True)
    return f"{number_format(plain(Decimal(amount) / NANO), force_grouping=True)}\N{NBSP}{currency}"


def plain(amount: Decimal) -> Decimal:
    """`12`, `12.50`, `0.0001`: no needless zeros, no exponent, cents as people write them."""
    short = amount.normalize()
    if short == short.to_integral_value():
        return short.quantize(Decimal(1))
    exponent = min(int(short.as_tuple().exponent), -2)
    return short.quantize(Decimal(1).scaleb(exponent))
