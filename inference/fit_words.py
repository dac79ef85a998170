"""What an estimate means to people: numbers and codes of `inference.fit` become sentences."""

from decimal import Decimal

from django.template.defaultfilters import filesizeformat
from django.utils.formats import number_format
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from inference.charts import shown
from inference.fit import Fit, Verdict
from inference.fit.alternatives import Alternatives

TONES = {
    Verdict.FITS: "ok",
    Verdict.SHORTER: "info",
    Verdict.UNKNOWN: "idle",
    Verdict.TOO_BIG: "warn",
    Verdict.TOO_FEW: "warn",
    Verdict.UNEVEN: "warn",
}
# Functions, so that each request gets its own language.
_VERDICTS = {
    Verdict.FITS: lambda: _("Fits"),
    Verdict.SHORTER: lambda: _("Fits with a shorter context"),
    Verdict.UNKNOWN: lambda: _("Not known"),
    Verdict.TOO_BIG: lambda: _("Does not fit"),
    Verdict.TOO_FEW: lambda: _("Too few GPUs"),
    Verdict.UNEVEN: lambda: _("Cannot be shared so"),
}


def title(verdict: Verdict) -> str:
    """The verdict in a word or two."""
    return _VERDICTS[verdict]()


def sentences(fit: Fit, place: str, most_gpus: int, other: Alternatives) -> list[str]:
    """The answer in the user's terms, one sentence per fact. `place` is the type of GPU, of which
    one machine has `most_gpus`, or the machine whose main memory it is."""
    match fit.verdict:
        case Verdict.UNKNOWN:
            return [_("The model does not say how large it is.")]
        case Verdict.TOO_FEW:
            return [_too_few(fit, place, most_gpus), *_choose(other)]
        case Verdict.UNEVEN:
            return [_uneven(fit), *_choose(other)]
        case Verdict.TOO_BIG:
            return [_lacks(fit), *_choose(other), *_measured(fit)]
    return [_fits(fit, place), *_whole_context(fit, other), _need(fit), *_measured(fit)]


def price_sentences(
    on_gpu: bool, per_hour: Decimal | None, per_million: Decimal | None, currency: str
) -> list[str]:
    """What it costs by the hour and by the token, as far as that is known."""
    if not on_gpu:
        return [_("It runs on the machine's processors, which have no price by the hour.")]
    if per_hour is None:
        return [_("The operator has not said what a GPU costs (GPU_HOUR_COST).")]
    hour = _("%(amount)s %(currency)s per hour.") % _price(per_hour, currency)
    if per_million is None:
        return [hour, _("How fast these GPUs are is not known here: no price per token.")]
    return [
        hour,
        _("At full load at least %(amount)s %(currency)s per million output tokens.")
        % _price(per_million, currency),
    ]


def error(error: float) -> str:
    """By how much the room for tokens that people were told of was more than the engine measured:
    0.1 is 10 %."""
    percent = {"percent": shown(abs(error) * 100)}
    if error >= 0:
        return _("%(percent)s %% more than the engine measured") % percent
    return _("%(percent)s %% less than the engine measured") % percent


def too_big(largest: Fit) -> str:
    """That it fits nowhere, by the answer of what has the most memory."""
    return _(
        "It does not fit on any machine here: it needs %(needed)s, "
        "and the largest has %(available)s."
    ) % {
        "needed": filesizeformat(largest.least_bytes),
        "available": filesizeformat(largest.available_bytes),
    }


def grouped(number: int) -> str:
    """131072 → 131,072, as the reader's language groups digits."""
    return number_format(number, force_grouping=True)


def _fits(fit: Fit, place: str) -> str:
    where = {"place": f"{grouped(fit.gpu_count)} × {place}" if fit.gpu_count else place}
    chat = fit.chat
    if chat is None or not chat.count:
        if fit.verdict is Verdict.SHORTER:
            return _("Fits on %(place)s with a shorter context.") % where
        return _("Fits on %(place)s.") % where
    return ngettext(
        "Fits on %(place)s: %(count)s concurrent user at %(context)s tokens.",
        "Fits on %(place)s: %(count)s concurrent users at %(context)s tokens.",
        chat.count,
    ) % (where | {"count": grouped(chat.count), "context": grouped(chat.context)})


def _whole_context(fit: Fit, other: Alternatives) -> list[str]:
    """What there is room for beyond a long chat."""
    if fit.context is None:
        return []
    if fit.verdict is Verdict.SHORTER:
        shorter = _(
            "There is room for a context of %(room)s tokens; the model could use %(full)s. "
            "Set a shorter context when you deploy it."
        ) % {"room": grouped(fit.max_context or 0), "full": grouped(fit.context)}
        if not other:
            return [shorter]
        return [shorter, _("The whole context fits with %(choice)s.") % {"choice": _either(other)}]
    if not fit.sequences or (fit.chat and fit.chat.context == fit.context):
        return []
    return [
        ngettext(
            "%(count)s request with the whole context of %(context)s tokens at a time, "
            "and more shorter ones.",
            "%(count)s requests with the whole context of %(context)s tokens at a time, "
            "and more shorter ones.",
            fit.sequences,
        )
        % {"count": grouped(fit.sequences), "context": grouped(fit.context)}
    ]


def _need(fit: Fit) -> str:
    sizes = {
        "needed": filesizeformat(fit.least_bytes),
        "available": filesizeformat(fit.available_bytes),
    }
    if not fit.gpu_count:
        return _("Needs %(needed)s of memory; the machine has %(available)s, without a GPU.") % (
            sizes
        )
    return ngettext(
        "Needs %(needed)s on %(count)s GPU, which has %(available)s for it.",
        "Needs %(needed)s on %(count)s GPUs together, which have %(available)s for it.",
        fit.gpu_count,
    ) % (sizes | {"count": grouped(fit.gpu_count)})


def _lacks(fit: Fit) -> str:
    """What it needs and does not have."""
    sizes = {
        "needed": filesizeformat(fit.least_bytes),
        "available": filesizeformat(fit.available_bytes),
        "count": grouped(fit.gpu_count),
    }
    if not fit.gpu_count:
        return _("Needs %(needed)s, this machine has %(available)s.") % sizes
    return (
        ngettext(
            "Needs %(needed)s, this GPU has %(available)s for it.",
            "Needs %(needed)s, these %(count)s GPUs have %(available)s for it.",
            fit.gpu_count,
        )
        % sizes
    )


def _too_few(fit: Fit, place: str, most_gpus: int) -> str:
    return ngettext(
        "%(wanted)s GPUs are asked for; no machine here has more than %(count)s × %(place)s.",
        "%(wanted)s GPUs are asked for; no machine here has more than %(count)s × %(place)s.",
        most_gpus,
    ) % {"wanted": grouped(fit.gpu_count), "count": grouped(most_gpus), "place": place}


def _uneven(fit: Fit) -> str:
    return ngettext(
        "The model cannot be shared evenly by %(count)s GPU as it is set.",
        "The model cannot be shared evenly by %(count)s GPUs as it is set.",
        fit.gpu_count,
    ) % {"count": grouped(fit.gpu_count)}


def _choose(other: Alternatives) -> list[str]:
    return [_("Choose %(choice)s.") % {"choice": _either(other)}] if other else []


def _either(other: Alternatives) -> str:
    """One of these helps."""
    choices = []
    if other.gpu_count:
        choices.append(
            ngettext("%(count)s GPU", "%(count)s GPUs", other.gpu_count)
            % {"count": grouped(other.gpu_count)}
        )
    if other.fp8_weights:
        choices.append(_("fp8 for the weights"))
    if other.fp8_cache:
        choices.append(_("fp8 for the conversations"))
    if len(choices) < 2:
        return choices[0]
    if len(choices) == 2:
        return _("%(first)s, or %(second)s") % {"first": choices[0], "second": choices[1]}
    return _("%(first)s, %(second)s, or %(third)s") % {
        "first": choices[0],
        "second": choices[1],
        "third": choices[2],
    }


def _measured(fit: Fit) -> list[str]:
    """On what it rests beside arithmetic."""
    if not fit.starts:
        return []
    words = ngettext(
        "Measured on %(count)s start of this kind here.",
        "Measured on %(count)s starts of this kind here.",
        fit.starts,
    )
    return [words % {"count": grouped(fit.starts)}]


def _price(amount: Decimal, currency: str) -> dict[str, str]:
    return {"amount": shown(float(amount)), "currency": currency}
