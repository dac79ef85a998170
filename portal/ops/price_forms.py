"""The operator's forms for prices and terms."""

from decimal import Decimal
from typing import Any

from django import forms
from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import RegexValidator
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from accounts.forms import StyledForm
from accounts.models import Organization
from billing.models import PriceBook, Rate, Terms
from billing.models.price import NANO
from inference.engines import ENGINES

NUMBER = {"class": "input num w-full", "step": "any", "inputmode": "decimal"}
M = Rate.Meter
# What holds where a rate is left empty while others are given.
LIKE = {M.CACHED: M.PROMPT, M.REASONING: M.COMPLETION}


def _moment() -> forms.DateTimeField:
    return forms.DateTimeField(
        label=gettext_lazy("From (UTC)"),
        required=False,
        widget=forms.DateTimeInput(attrs={"class": "input", "type": "datetime-local"}),
        help_text=gettext_lazy("Empty: from now on."),
    )


def _number(label: str, most: int, places: int = 9) -> forms.DecimalField:
    return forms.DecimalField(
        label=label,
        min_value=0,
        max_value=most,
        decimal_places=places,
        required=False,
        widget=forms.NumberInput(attrs=NUMBER),
    )


class PriceForm(StyledForm):
    """What a version is for, and its rates in units of the currency."""

    def __init__(self, *args: Any, book: PriceBook, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._book = book
        self.fields["model"] = forms.CharField(
            label=gettext_lazy("Model"),
            max_length=512,
            required=False,
            widget=forms.TextInput(attrs={"class": "input w-full", "list": "known-models"}),
            help_text=gettext_lazy("Its whole name, such as Qwen/Qwen3-8B; empty: every model."),
        )
        engines = [("", _("every engine")), *((name, name) for name in ENGINES)]
        self.fields["engine"] = forms.ChoiceField(
            label=gettext_lazy("Engine"),
            choices=engines,
            required=False,
            widget=forms.Select(attrs={"class": "select w-full"}),
        )
        self.fields["gpu_type"] = forms.CharField(
            label=gettext_lazy("GPU type"),
            max_length=120,
            required=False,
            widget=forms.TextInput(attrs={"class": "input w-full", "list": "known-gpu-types"}),
            help_text=gettext_lazy("As the machines tell it; empty: every type."),
        )
        for meter in M:
            label = f"{meter.label}, {_per(meter)} ({book.currency})"
            self.fields[meter.value] = _number(label, 1_000_000)
        self.fields["effective_at"] = _moment()
        self.fields["ends"] = forms.BooleanField(
            label=gettext_lazy("No longer a price for just this"),
            required=False,
            help_text=gettext_lazy("From then on what is less specific holds. Leave rates empty."),
        )

    def rates(self) -> dict[str, int]:
        """Nano-units by meter; a meter that is left empty is not priced."""
        given = {meter: self.cleaned_data[meter.value] for meter in M}
        for meter, other in LIKE.items():
            if given[meter] is None:
                given[meter] = given[other]
        if given[M.PROMPT] is not None and given[M.COMPLETION] is not None:
            given[M.REQUEST] = given[M.REQUEST] or Decimal(0)
        return {
            meter.value: int(amount * NANO) for meter, amount in given.items() if amount is not None
        }

    def scope(self) -> dict[str, Any]:
        """What it is for, as `PriceBook.set_rates` takes it."""
        return {name: self.cleaned_data[name] for name in ("model", "engine", "gpu_type", "ends")}


def _per(meter: Rate.Meter) -> str:
    if meter is M.REQUEST:
        return _("each")
    return _("per hour") if meter in {M.GPU_SECOND, M.CPU_SECOND} else _("per million")


class BookForm(StyledForm):
    """A price list that is not there yet."""

    currency = forms.CharField(
        label=gettext_lazy("Currency"),
        max_length=3,
        validators=[RegexValidator("^[A-Z]{3}$", gettext_lazy("Write a code such as TWD."))],
    )
    organization = forms.CharField(
        label=gettext_lazy("For one organization"),
        required=False,
        help_text=gettext_lazy("The word in its address; empty: for all of this currency."),
    )

    def clean_organization(self) -> Organization | None:
        slug = self.cleaned_data["organization"].strip()
        if not slug:
            return None
        found = Organization.objects.filter(slug=slug).first()
        if found is None:
            raise ValidationError(_("There is no organization with this address."))
        return found

    def open(self) -> PriceBook:
        """The list, which may have been there already. Raises ValidationError."""
        currency, organization = self.cleaned_data["currency"], self.cleaned_data["organization"]
        if organization is None:
            return PriceBook.of_house(currency)
        return PriceBook.of_organization(organization, currency)


class TermsForm(StyledForm):
    """What an organization gets off the prices."""

    def __init__(self, *args: Any, currency: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        currency = currency or settings.ENV.currency
        self.fields["discount"] = _number(_("Discount (%)"), 100, places=2)
        self.fields["free_tokens"] = forms.IntegerField(
            label=_("Free tokens each month"),
            min_value=0,
            max_value=10**15,
            required=False,
            widget=forms.NumberInput(attrs=NUMBER | {"inputmode": "numeric"}),
        )
        self.fields["free_amount"] = _number(
            _("Free amount each month (%(currency)s)") % {"currency": currency}, 10**9
        )
        self.fields["effective_at"] = _moment()

    @staticmethod
    def of(terms: Terms | None) -> dict[str, Any]:
        """What is entered now."""
        if terms is None:
            return {}
        amount = Decimal(terms.free_nano) / NANO
        return {
            "discount": terms.discount_percent,
            "free_tokens": terms.free_tokens,
            "free_amount": f"{amount:f}",
        }

    def agreed(self) -> dict[str, Any]:
        """As `Terms.agree` takes it."""
        data = self.cleaned_data
        return {
            "discount": int((data["discount"] or 0) * 100),
            "free_tokens": data["free_tokens"] or 0,
            "free_nano": int((data["free_amount"] or 0) * NANO),
            "effective_at": data["effective_at"],
        }
