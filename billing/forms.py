"""What people may enter about how an organization pays."""

from typing import Any
from zoneinfo import available_timezones

from django import forms
from django.utils.translation import gettext_lazy as _

from billing import tax_ids
from billing.models import BillingProfile, LedgerTransaction
from billing.money import CURRENCIES

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
        choices = {own: own} | {code: code for code in CURRENCIES}
        currency.choices = sorted(choices.items())  # type: ignore[attr-defined]
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
