"""What people may enter about how an organization pays."""

from decimal import Decimal
from typing import Any
from zoneinfo import available_timezones

from django import forms
from django.utils.dates import MONTHS
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from accounts.forms import StyledForm
from accounts.models import ApiKey, Organization
from billing import tax_ids
from billing.models import BillingProfile, Budget, LedgerTransaction, PriceBook
from billing.models.budget import LEVELS
from billing.money import decimals, minor, parse
from billing.periods import PeriodKind

# Named as Stripe names them: they are told to it as they are.
TAX_ID_KINDS = [
    ("", _("None")),
    ("tw_vat", _("Taiwan: 統一編號")),
    ("eu_vat", _("European Union: VAT number")),
    ("gb_vat", _("United Kingdom: VAT number")),
    ("ch_vat", _("Switzerland: VAT number")),
    ("jp_cn", _("Japan: corporate number")),
    ("kr_brn", _("South Korea: business registration number")),
    ("cn_tin", _("China: taxpayer number")),
    ("hk_br", _("Hong Kong: business registration number")),
    ("sg_gst", _("Singapore: GST number")),
    ("us_ein", _("United States: EIN")),
    ("ca_bn", _("Canada: business number")),
    ("au_abn", _("Australia: ABN")),
]
# As people look for them; names that are there for old programs alone are left out.
ZONES = sorted(
    zone
    for zone in available_timezones()
    if zone.split("/")[0]
    in {"Africa", "America", "Asia", "Atlantic", "Australia", "Europe", "Indian", "Pacific"}
) + ["UTC"]


class ProfileForm(forms.ModelForm):
    """How an organization pays. The currency stays what it is once anything has been booked."""

    currency = forms.ChoiceField(
        label=_("Currency"),
        help_text=_("It cannot be changed after the first entry in the ledger."),
    )
    time_zone = forms.ChoiceField(
        label=_("Time zone"),
        choices=[(zone, zone.replace("_", " ")) for zone in ZONES],
        help_text=_("Months of budgets and invoices begin at its midnight."),
    )
    tax_id_kind = forms.ChoiceField(label=_("Kind of tax id"), choices=TAX_ID_KINDS, required=False)

    class Meta:
        model = BillingProfile
        fields = (
            "currency",
            "time_zone",
            "legal_name",
            "address",
            "country",
            "tax_id_kind",
            "tax_id",
            "purchase_order",
            "invoice_email",
        )
        help_texts = {  # noqa: RUF012  - as Django wants it
            "country": _("Two letters, like TW."),
            "purchase_order": _("It stands on every invoice."),
            "invoice_email": _("Empty: invoices go to the owners and billing members."),
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        own = self.instance.currency
        currency = self.fields["currency"]
        # What the operator has put no price on would cost nothing in another currency.
        house = PriceBook.objects.filter(organization=None, versions__rates__nano__gt=0)
        priced = {own, *house.values_list("currency", flat=True)}
        currency.choices = [(code, code) for code in sorted(priced)]  # type: ignore[attr-defined]
        zone = self.instance.time_zone
        if zone not in ZONES:
            self.fields["time_zone"].choices += [(zone, zone)]  # type: ignore[attr-defined]
        mine = LedgerTransaction.objects.for_organization(self.instance.organization)
        # Who sends another currency all the same is not heard: Django keeps to what was there.
        currency.disabled = mine.exists()
        for field in self.fields.values():
            widget = field.widget
            if isinstance(widget, forms.Select):
                widget.attrs["class"] = "select w-full"
            elif isinstance(widget, forms.Textarea):
                widget.attrs |= {"class": "textarea", "rows": 3}
            else:
                widget.attrs["class"] = "input"

    def clean_country(self) -> str:
        country = str(self.cleaned_data["country"]).strip().upper()
        if country and not (len(country) == 2 and country.isascii() and country.isalpha()):
            raise forms.ValidationError(_("Write two letters, like TW."))
        return country

    def clean(self) -> dict[str, Any]:
        data = super().clean() or self.cleaned_data
        kind, written = data.get("tax_id_kind", ""), data.get("tax_id", "")
        if bool(kind) != bool(written):
            field = "tax_id" if kind else "tax_id_kind"
            self.add_error(field, _("Choose the kind of tax id, and write it."))
        elif kind in tax_ids.CHECKS:
            data["tax_id"] = tax_ids.plain(written)
            if not tax_ids.CHECKS[kind](data["tax_id"]):
                self.add_error("tax_id", _("This is not a number of that kind. Look for a typo."))
        return data


class BudgetForm(StyledForm):
    """A budget. Whose it is is chosen once."""

    subject = forms.ChoiceField(label=_("For"))
    amount = forms.CharField(
        max_length=20,
        widget=forms.TextInput(
            attrs={"class": "input num", "inputmode": "decimal", "autocomplete": "off"}
        ),
    )
    period = forms.ChoiceField(
        label=_("Period"),
        choices=[
            (PeriodKind.MONTH.value, _("Month")),
            (PeriodKind.FISCAL_YEAR.value, _("Fiscal year")),
        ],
    )
    first_month = forms.TypedChoiceField(
        label=_("First month of the fiscal year"),
        choices=list(MONTHS.items()),
        coerce=int,
        empty_value=1,  # type: ignore[arg-type]  # it is what wanted() is to find
        required=False,
    )
    levels = forms.TypedMultipleChoiceField(
        label=_("E-mail when so much is spent"),
        choices=[(level, f"{level} %") for level in LEVELS],
        coerce=int,
        required=False,
        widget=forms.CheckboxSelectMultiple,
    )
    hard_stop = forms.BooleanField(
        label=_("Refuse requests when all of it is spent"),
        required=False,
        help_text=_(
            "Spending is looked at once a minute, so what runs in that minute may go beyond it. "
            "Models that are free are refused as well; instances go on running."
        ),
    )

    def __init__(
        self,
        *args: Any,
        organization: Organization,
        currency: str,
        budget: Budget | None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, initial=_as_typed(budget, currency), **kwargs)
        self.currency = currency
        self.fields["amount"].label = _("Amount (%s)") % currency
        self._subjects = _subjects(organization)
        if budget is None:
            choices = [(name, label) for name, (label, _subject) in self._subjects.items()]
            self.fields["subject"].choices = choices  # type: ignore[attr-defined]
        else:
            del self.fields["subject"]

    def clean_amount(self) -> int:
        """Nano-units."""
        try:
            nano = parse(self.cleaned_data["amount"], self.currency)
        except ValueError:
            nano = 0
        if not nano:
            raise forms.ValidationError(_("Write an amount such as %s.") % "25")
        return nano

    def wanted(self) -> dict[str, Any]:
        """What `budgets.set_budget` is to be told."""
        data = self.cleaned_data
        subject = self._subjects[data["subject"]][1] if "subject" in data else {}
        return {
            "nano": data["amount"],
            "period": data["period"],
            "first_month": data["first_month"],
            "levels": data["levels"],
            "hard_stop": data["hard_stop"],
            **subject,
        }


def _subjects(organization: Organization) -> dict[str, tuple[str, dict[str, Any]]]:
    """Whom a budget may be for: what people call them, and what the model calls them."""
    found: dict[str, tuple[str, dict[str, Any]]] = {
        "organization": (gettext("The whole organization"), {})
    }
    for project in organization.projects.open():
        found[f"project:{project.id}"] = (
            f"{gettext('Project')}: {project.name}",
            {"project": project},
        )
    for member in organization.memberships.select_related("user").order_by("user__email"):
        found[f"member:{member.id}"] = (
            f"{gettext('Member')}: {member.user}",
            {"membership": member},
        )
    for key in organization.api_keys.usable().shown().filter(kind=ApiKey.Kind.API):
        found[f"key:{key.id}"] = (f"{gettext('API key')}: {key}", {"api_key": key})
    return found


def _as_typed(budget: Budget | None, currency: str) -> dict[str, Any]:
    if budget is None:
        return {"levels": list(LEVELS)}
    amount, _rest = minor(budget.nano, currency)
    return {
        "amount": f"{Decimal(amount).scaleb(-decimals(currency)):f}",
        "period": budget.period,
        "first_month": budget.first_month,
        "levels": budget.levels,
        "hard_stop": budget.hard_stop,
    }
