"""Whether a model fits here, for pages, REST and the form for a new instance.

A house is asked about kinds of hardware, not about machines: GPUs of one type, as many as one
machine has of them, or the main memory of a machine without.
"""

from collections import Counter, defaultdict
from decimal import Decimal
from typing import Self

import msgspec

from accounts.models import Organization
from inference import catalog, fit_words, memory_bar
from inference.engines import loaders
from inference.fit import Fit, Hardware, Verdict, Wish, estimate
from inference.fit.alternatives import Alternatives, alternatives
from inference.fit.bandwidth import bandwidth
from inference.fit.price import full_load_speed, per_million_tokens
from inference.fit_records import Corrections
from inference.gpu_price import GpuHour, GpuPrices
from inference.model_card import ModelCard
from inference.models import Node

_ORDER = [
    *(Verdict.FITS, Verdict.SHORTER, Verdict.UNKNOWN),
    *(Verdict.TOO_BIG, Verdict.UNEVEN, Verdict.TOO_FEW),
]


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of hardware, at its largest: the machine that has the most of it."""

    hardware: Hardware
    gpu_type: str = ""  # empty: main memory
    nodes: tuple[str, ...] = ()  # the machines that have some
    beside_gpus: bool = False  # main memory of a machine that has GPUs

    @property
    def title(self) -> str:
        return self.gpu_type or ", ".join(self.nodes)

    def suits(self, gpu_count: int | None) -> bool:
        """Whether it is what somebody means who wants so many GPUs (None: as many as it takes)."""
        if self.gpu_type:
            return gpu_count != 0
        return gpu_count == 0 or (gpu_count is None and not self.beside_gpus)


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a model fits one kind of hardware, in numbers and in words."""

    place: Place
    fit: Fit
    alternatives: Alternatives = Alternatives()
    hour: GpuHour | None = None  # the price of one GPU

    @property
    def title(self) -> str:
        return fit_words.title(self.fit.verdict)

    @property
    def tone(self) -> str:
        """The colour of its label, among those of the status component."""
        return fit_words.TONES[self.fit.verdict]

    @property
    def sentences(self) -> list[str]:
        most = len(self.place.hardware.gpu_memory_bytes)
        return fit_words.sentences(self.fit, self.place.title, most, self.alternatives)

    @property
    def per_hour(self) -> Decimal | None:
        """Units of the currency; None where nothing runs or there is no price."""
        if self.hour is None or not self.fit.runs or not self.fit.gpu_count:
            return None
        return self.hour.amount * self.fit.gpu_count

    @property
    def tokens_per_second(self) -> float | None:
        """At full load, of all users together, at the most; None where nothing tells."""
        speed = bandwidth(self.place.gpu_type)
        return (full_load_speed(self.fit, speed) or None) if speed else None

    @property
    def per_million(self) -> Decimal | None:
        """A million output tokens at full load, at the least."""
        if self.per_hour is None or self.tokens_per_second is None:
            return None
        return per_million_tokens(self.per_hour, self.tokens_per_second)

    @property
    def price_sentences(self) -> list[str]:
        if not self.fit.runs:
            return []
        currency = self.hour.currency if self.hour else ""
        on_gpu = bool(self.fit.gpu_count)
        return fit_words.price_sentences(on_gpu, self.per_hour, self.per_million, currency)

    @property
    def bar(self) -> list[memory_bar.Part]:
        return memory_bar.parts(self.fit)


class House(msgspec.Struct, frozen=True):
    """What an answer depends on beside the model and the wish; asked for once a page."""

    places: list[Place]
    corrections: Corrections
    prices: GpuPrices | None = None

    @classmethod
    def of(cls, organization: Organization) -> Self:
        """As it is now, at this organization's prices."""
        return cls(places(), Corrections.of_house(), GpuPrices.of(organization))

    def answers(
        self,
        card: ModelCard,
        wish: Wish | None = None,
        engine: str = "",
        draft: ModelCard | None = None,
    ) -> list[Answer]:
        """For each kind of hardware that suits the wish, the best first. Without an `engine`, it
        is the first that loads such weights. A `draft` model's weights lie beside the model's
        own."""
        engine = engine or loaders(card.weights_format)[0].name
        wish = wish or Wish()
        found = [
            self._answer(place, card, wish, engine, draft)
            for place in self.places
            if place.suits(wish.gpu_count)
        ]
        return sorted(found, key=lambda answer: _ORDER.index(answer.fit.verdict))

    def _answer(
        self, place: Place, card: ModelCard, wish: Wish, engine: str, draft: ModelCard | None
    ) -> Answer:
        correction = self.corrections.correction(engine, card, place.gpu_type, wish)
        fit = estimate(card, place.hardware, wish, correction, draft)
        other = alternatives(card, place.hardware, wish, correction, fit, draft)
        hour = None
        if self.prices is not None and place.gpu_type:
            hour = self.prices.hour(place.gpu_type, model=card.model_id, engine=engine)
        return Answer(place=place, fit=fit, alternatives=other, hour=hour)


def places() -> list[Place]:
    """Every kind of hardware whose machine has reported: GPUs by their names, then main memory."""
    machines: dict[tuple[str, int], dict[str, int]] = defaultdict(dict)
    memory = []
    for node in Node.objects.order_by("name"):
        kinds = Counter((str(gpu["name"]), int(gpu["memory_bytes"])) for gpu in node.gpus)
        for kind, count in kinds.items():
            machines[kind][node.name] = count
        memory.append(
            Place(
                hardware=Hardware(memory_bytes=node.memory_bytes),
                nodes=(node.name,),
                beside_gpus=bool(kinds),
            )
        )
    gpus = [
        Place(
            gpu_type=name,
            hardware=Hardware(memory_bytes=0, gpu_memory_bytes=(size,) * max(counts.values())),
            nodes=tuple(counts),
        )
        for (name, size), counts in sorted(machines.items())
    ]
    return gpus + memory


def most_gpus(places: list[Place]) -> int:
    """Of one type in one machine."""
    return max((len(place.hardware.gpu_memory_bytes) for place in places), default=0)


def obstacle(card: ModelCard, answers: list[Answer]) -> str:
    """Why this model cannot be deployed here; empty when it can."""
    if card.refusal:
        return catalog.refusal_sentence(card)
    runs = [a for a in answers if a.fit.runs or a.fit.verdict is Verdict.UNKNOWN]
    if not answers or runs:
        return ""
    too_big = [answer for answer in answers if answer.fit.verdict is Verdict.TOO_BIG]
    if not too_big:
        return answers[0].sentences[0]
    return fit_words.too_big(max((a.fit for a in too_big), key=lambda fit: fit.available_bytes))
