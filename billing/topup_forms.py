"""What people enter about paying: how much now, and how much by itself."""

from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from accounts.forms import StyledForm
from accounts.models import Organization
from billing.models import AutoTopUp
from billing.money import NANO, decimals, minor, parse
from billing.payments import amounts, automatic, checkout

NUMBER = {"class": "input num", "inputmode": "decimal", "autocomplete": "off"}


def _nano(text: str, currency: str) -> int:
    """Raises ValidationError."""
    try:
        return parse(text, currency)
    except ValueError as error:
        raise ValidationError(_("Write an amount such as %s.") % "25") from error


def _typed(nano: int, currency: str) -> str:
    """As somebody would type it."""
    whole, places = minor(nano, currency)[0], decimals(currency)
    units, part = divmod(whole, 10**places)
    return f"{units}.{part:0{places}}" if part else str(units)


class TopUpForm(StyledForm):
    """How much; as people type it, in the currency of the organization."""

    amount = forms.CharField(max_length=20, widget=forms.TextInput(attrs=NUMBER))
    save_card = forms.BooleanField(
        label=gettext_lazy("Save the card for automatic top-ups"), required=False
    )

    def __init__(self, *args: Any, currency: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.currency = currency
        least, most = (f"{limit // NANO:,}" for limit in amounts.limits(currency))
        self.fields["amount"].label = _("Amount (%s)") % currency
        self.fields["amount"].help_text = _("From %(least)s to %(most)s.") % {
            "least": least,
            "most": most,
        }

    def clean_amount(self) -> int:
        """Nano-units."""
        nano = _nano(self.cleaned_data["amount"], self.currency)
        try:
            checkout.check_amount(nano, self.currency)
        except ValidationError as error:
            raise ValidationError(error.messages) from error
        return nano


class AutomaticForm(StyledForm):
    """When credit falls below so much, so much is paid."""

    enabled = forms.BooleanField(label=gettext_lazy("Top up automatically"), required=False)
    threshold = forms.CharField(max_length=20, widget=forms.TextInput(attrs=NUMBER))
    adds = forms.CharField(max_length=20, widget=forms.TextInput(attrs=NUMBER))
    monthly = forms.CharField(
        max_length=20,
        required=False,
        widget=forms.TextInput(attrs=NUMBER),
        help_text=gettext_lazy("In a calendar month (UTC). Empty: as often as it is needed."),
    )

    def __init__(self, *args: Any, currency: str, **kwargs: Any) -> None:
        kwargs.setdefault("prefix", "auto")
        super().__init__(*args, **kwargs)
        self.currency = currency
        self.fields["threshold"].label = _("When credit falls below (%s)") % currency
        self.fields["adds"].label = _("Pay (%s)") % currency
        self.fields["monthly"].label = _("At most (%s)") % currency

    @classmethod
    def of(cls, setting: AutoTopUp | None, currency: str) -> "AutomaticForm":
        """With what is set."""
        if setting is None:
            return cls(currency=currency)
        initial = {
            "enabled": setting.enabled,
            "threshold": _typed(setting.threshold_nano, currency),
            "adds": _typed(setting.nano, currency),
        }
        if setting.monthly_nano is not None:
            initial["monthly"] = _typed(setting.monthly_nano, currency)
        return cls(currency=currency, initial=initial)

    def clean_threshold(self) -> int:
        return _nano(self.cleaned_data["threshold"], self.currency)

    def clean_adds(self) -> int:
        return _nano(self.cleaned_data["adds"], self.currency)

    def clean_monthly(self) -> int | None:
        text = self.cleaned_data["monthly"]
        return _nano(text, self.currency) if text else None

    def save(self, organization: Organization) -> AutoTopUp:
        """Raises ValidationError, Conflict."""
        return automatic.configure(
            organization,
            enabled=self.cleaned_data["enabled"],
            threshold_nano=self.cleaned_data["threshold"],
            nano=self.cleaned_data["adds"],
            monthly_nano=self.cleaned_data["monthly"],
        )
