"""What may be changed of an instance: its configuration, its replicas, its sleep, its hours."""

from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode
from uuid import UUID
from zoneinfo import available_timezones

from django import forms
from django.contrib import messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.forms import BaseFormSet, formset_factory
from django.http import HttpResponse, QueryDict
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_GET, require_http_methods

from accounts.forms import StyledForm
from accounts.roles import Permission
from accounts.tenancy import TenantRequest, requires
from inference import catalog, fit_answers
from inference.fit_answers import House
from inference.forms import ConfigurationForm, add_errors, wish_of
from inference.hub import HubError
from inference.models import Instance, ScheduleEntry
from inference.views.instance import common, fetch, gone

NUMBER = {"class": "input num w-full", "inputmode": "numeric"}
TIME = {"class": "input num w-full", "type": "time"}
DAYS = [
    (1, gettext_lazy("Mon")),
    (2, gettext_lazy("Tue")),
    (4, gettext_lazy("Wed")),
    (8, gettext_lazy("Thu")),
    (16, gettext_lazy("Fri")),
    (32, gettext_lazy("Sat")),
    (64, gettext_lazy("Sun")),
]


class RunningForm(StyledForm):
    """How many replicas, and when they sleep: holds at once and restarts nothing."""

    replica_count = forms.IntegerField(
        label=gettext_lazy("Replicas"),
        min_value=1,
        max_value=16,
        widget=forms.NumberInput(attrs=NUMBER),
        help_text=gettext_lazy("Copies that share the load."),
    )
    sleep_after_minutes = forms.IntegerField(
        label=gettext_lazy("Sleep after"),
        required=False,
        min_value=1,
        max_value=10_080,
        widget=forms.NumberInput(attrs=NUMBER),
        help_text=gettext_lazy(
            "Minutes without a request, after which it costs nothing until the next request wakes "
            "it. Empty: it never sleeps."
        ),
    )

    def save(self, instance: Instance, by: Any) -> bool:
        """Change what differs; False, with errors, where that is refused."""
        count, minutes = (self.cleaned_data[name] for name in self.fields)
        try:
            if count != instance.replica_count:
                instance.set_replicas(by, count)
            if minutes != instance.sleep_after_minutes:
                instance.set_sleep(by, minutes)
        except ValidationError as problem:
            add_errors(self, problem)
        return not self.errors


class EntryForm(StyledForm):
    """So many replicas at these hours. An entry without days is none."""

    days = forms.TypedMultipleChoiceField(
        label=gettext_lazy("Days"),
        choices=DAYS,
        coerce=int,
        required=False,
        widget=forms.CheckboxSelectMultiple,
    )
    starts = forms.TimeField(
        label=gettext_lazy("From"),
        required=False,
        widget=forms.TimeInput(attrs=TIME, format="%H:%M"),
    )
    ends = forms.TimeField(
        label=gettext_lazy("Until"),
        required=False,
        widget=forms.TimeInput(attrs=TIME, format="%H:%M"),
    )
    replica_count = forms.IntegerField(
        label=gettext_lazy("Replicas"),
        required=False,
        min_value=0,
        max_value=16,
        widget=forms.NumberInput(attrs=NUMBER),
    )

    def clean(self) -> dict[str, Any]:
        """Whole, or empty."""
        said: dict[str, Any] = super().clean() or self.cleaned_data
        if said.get("days"):
            for name in ("starts", "ends", "replica_count"):
                if said.get(name) is None and name not in self.errors:
                    self.add_error(name, _("This is missing."))
        return said


class ZoneForm(StyledForm):
    """By whose clock the schedule goes."""

    time_zone = forms.ChoiceField(
        label=gettext_lazy("Time zone"),
        choices=lambda: [(name, name) for name in sorted(available_timezones())],
    )


Entries = formset_factory(EntryForm, extra=2, max_num=20, absolute_max=40)


@require_http_methods(["GET", "POST"])
@requires(Permission.VIEW)
def show(request: TenantRequest, instance_id: UUID) -> HttpResponse:
    """The settings; a change of the engine's makes a new revision."""
    instance = fetch(request, instance_id)
    if instance is None:
        return gone(request)
    if request.method == "GET":
        return _page(request, instance)
    if not request.membership.allows(Permission.MANAGE_INSTANCES):
        raise PermissionDenied
    if request.POST.get("form") == "engine":
        return _change(request, instance)
    running = RunningForm(request.POST)
    if running.is_valid() and running.save(instance, request.user):
        messages.success(request, _("The settings are saved."))
        return redirect(request.path)
    return _page(request, instance, running=running)


def _change(request: TenantRequest, instance: Instance) -> HttpResponse:
    form = _configuration(instance, request.POST, bound=True)
    if form.wants_to_see:
        return redirect(f"{request.path}?{urlencode({'engine': form.chosen.name})}#engine-title")
    if form.is_valid() and form.change(request.user):
        number = {"number": form.instance.revision}
        messages.success(request, _("Revision %(number)d is on its way.") % number)
        return redirect(instance)
    return _page(request, instance, engine=form)


def _configuration(
    instance: Instance, asked: QueryDict, *, bound: bool = False
) -> ConfigurationForm:
    gpus = fit_answers.most_gpus(fit_answers.places())
    return ConfigurationForm(instance, asked, gpus, bound=bound)


@require_GET
@requires(Permission.MANAGE_INSTANCES)
def fit(request: TenantRequest, instance_id: UUID) -> HttpResponse:
    """Whether the model fits with the engine's settings as they are filled in: a part of the page.

    By itself, so that the page need not wait for a hub that does not answer.
    """
    instance = fetch(request, instance_id)
    if instance is None:
        return gone(request)
    context: dict[str, Any] = {}
    try:
        card = catalog.describe(
            request.organization,
            instance.model_source,
            instance.model_id,
            instance.model_revision,
            instance.model_file,
        )
    except HubError as problem:
        context["problem"] = problem.sentence
    else:
        form = _configuration(instance, request.GET)
        engine, draft = form.chosen.name, form.draft_so_far(request.organization)
        wish = wish_of(engine, request.GET.dict())
        context["fits"] = House.of(request.organization).answers(card, wish, engine, draft)
    return render(request, "inference/instance_fit.html", context)


@require_http_methods(["POST"])
@requires(Permission.MANAGE_INSTANCES)
def schedule(request: TenantRequest, instance_id: UUID) -> HttpResponse:
    """Put other hours in the place of the present ones."""
    instance = fetch(request, instance_id)
    if instance is None:
        return gone(request)
    entries, zone = Entries(request.POST), ZoneForm(request.POST)
    if entries.is_valid() and zone.is_valid():
        instance.set_schedule(request.user, _entries(entries, zone.cleaned_data["time_zone"]))
        messages.success(request, _("The schedule is saved."))
        return redirect("instance-settings", org=request.organization.slug, instance_id=instance.id)
    return _page(request, instance, entries=entries, zone=zone)


def _entries(forms: "BaseFormSet[Any]", time_zone: str) -> list[ScheduleEntry]:
    said = [form.cleaned_data for form in forms if form.cleaned_data.get("days")]
    return [
        ScheduleEntry(
            weekdays=sum(entry["days"]),
            starts=entry["starts"],
            ends=entry["ends"],
            replica_count=entry["replica_count"],
            time_zone=time_zone,
        )
        for entry in said
    ]


def _page(
    request: TenantRequest,
    instance: Instance,
    *,
    running: RunningForm | None = None,
    engine: ConfigurationForm | None = None,
    entries: "BaseFormSet[Any] | None" = None,
    zone: ZoneForm | None = None,
) -> HttpResponse:
    kept = list(instance.schedule.all())
    counts = {
        "replica_count": instance.replica_count,
        "sleep_after_minutes": instance.sleep_after_minutes,
    }
    shown = {
        "running": running or RunningForm(initial=counts),
        "engine": engine or _configuration(instance, request.GET),
        "entries": entries or Entries(initial=[_initial(entry) for entry in kept]),
        "zone": zone or ZoneForm(initial={"time_zone": kept[0].time_zone if kept else "UTC"}),
    }
    wrong = any(form.errors for form in (shown["running"], shown["engine"], shown["zone"]))
    wrong = wrong or any(shown["entries"].errors if entries else [])
    status = HTTPStatus.UNPROCESSABLE_ENTITY if wrong else HTTPStatus.OK
    context = common(request, instance, instance.replicas.first()) | shown
    return render(request, "inference/instance_settings.html", context, status=status)


def _initial(entry: ScheduleEntry) -> dict[str, Any]:
    return {
        "days": [bit for bit, _name in DAYS if entry.weekdays & bit],
        "starts": entry.starts,
        "ends": entry.ends,
        "replica_count": entry.replica_count,
    }
