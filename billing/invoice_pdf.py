"""An invoice on paper: A4, black on white, the same bytes each time it is asked for.

Chinese and Japanese are set in the fonts that PDF readers bring for them, so that no font has to be
shipped. Which of them, the customer's country says: the same character is drawn differently.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from zoneinfo import ZoneInfo

from django.utils.translation import get_language
from django.utils.translation import gettext as _
from reportlab.lib.pagesizes import A4
from reportlab.pdfbase.cidfonts import UnicodeCIDFont
from reportlab.pdfbase.pdfmetrics import registerFont, stringWidth
from reportlab.pdfgen.canvas import Canvas

from billing import money
from billing.models import Invoice, InvoiceLine
from billing.periods import last_day

WIDTH, HEIGHT = A4
LEFT, RIGHT = 56.0, WIDTH - 56.0
TOP, BOTTOM = HEIGHT - 60.0, 76.0
PLAIN, BOLD = "Helvetica", "Helvetica-Bold"
TRADITIONAL, SIMPLIFIED, JAPANESE = "MSung-Light", "STSong-Light", "HeiseiMin-W3"
BY_COUNTRY = {
    "TW": TRADITIONAL,
    "HK": TRADITIONAL,
    "MO": TRADITIONAL,
    "CN": SIMPLIFIED,
    "SG": SIMPLIFIED,
    "JP": JAPANESE,
}
BY_LANGUAGE = {"zh-hant": TRADITIONAL, "zh-hans": SIMPLIFIED, "ja": JAPANESE}
GREY, RULE = 0.42, 0.8
QUANTITY, PRICE = RIGHT - 200, RIGHT - 80  # where these columns end
WHAT_WIDTH, QUANTITY_WIDTH, PRICE_WIDTH = 190.0, 88.0, 112.0


def render(invoice: Invoice, lines: Sequence[InvoiceLine]) -> bytes:
    """The document, in the language that is active."""
    return _Document(invoice, lines).bytes()


def east_asian_font(country: str) -> str:
    """For Chinese and Japanese on this customer's invoices."""
    language = (get_language() or "").lower()
    return BY_COUNTRY.get(country) or BY_LANGUAGE.get(language, TRADITIONAL)


def quantity(line: InvoiceLine) -> str:
    """With its unit; empty where there is none."""
    if not line.unit:
        return ""
    return f"{line.quantity:,} {line.get_unit_display()}"


def title(line: InvoiceLine) -> str:
    """What it is, in words."""
    if line.kind == InvoiceLine.Kind.GPU:
        if not line.what:
            return _("Time on processors")
        return _("GPU time: %(gpu)s") % {"gpu": line.what}
    return line.what


@dataclass(frozen=True)
class _Row:
    line: InvoiceLine
    what: list[str]
    beneath: list[str]

    @property
    def height(self) -> float:
        return 12.0 * len(self.what) + 10.0 * len(self.beneath) + 9.0


class _Document:
    def __init__(self, invoice: Invoice, lines: Sequence[InvoiceLine]) -> None:
        self.invoice = invoice
        self.zone = ZoneInfo(invoice.time_zone)
        self.font = east_asian_font(invoice.country)
        if self.font not in _registered:
            registerFont(UnicodeCIDFont(self.font))
            _registered.add(self.font)
        self.rows = [self._row(line) for line in lines]

    def bytes(self) -> bytes:
        file = BytesIO()
        # invariant: no time of making, and an id made of what is in it.
        self.canvas = Canvas(file, pagesize=A4, invariant=1, pageCompression=1)
        self.canvas.setTitle(f"{self._name()} {self.invoice.number or ''}".strip())
        self.canvas.setAuthor(self.invoice.issuer_name)
        self.canvas.setCreator("Modelport")
        pages = list(self._pages())
        for number, (rows, totals) in enumerate(pages, 1):
            y = self._head() if number == 1 else TOP
            y = self._table_head(y)
            for row in rows:
                y = self._draw_row(row, y)
            if totals:
                self._totals(y)
            self._foot(number, len(pages))
            self.canvas.showPage()
        self.canvas.save()
        return file.getvalue()

    def _pages(self) -> Iterator[tuple[list[_Row], bool]]:
        """The rows of each page, and whether the totals follow on it."""
        y = self._head(draw=False) - 24
        held: list[_Row] = []
        for row in self.rows:
            if y - row.height < BOTTOM:
                yield held, False
                held, y = [], TOP - 24
            held.append(row)
            y -= row.height
        if y - 110 < BOTTOM:
            yield held, False
            held = []
        yield held, True

    def _name(self) -> str:
        if self.invoice.status == Invoice.Status.DRAFT:
            return _("Statement")
        return _("Credit note") if self.invoice.is_credit_note else _("Invoice")

    def _head(self, draw: bool = True) -> float:
        """Who, to whom, when; where that ends."""
        invoice = self.invoice
        y = TOP
        if draw:
            self._text(LEFT, y - 8, self._name(), 22, BOLD)
            self._text(RIGHT, y - 6, invoice.number or _("Draft, not an invoice"), 12, right=True)
            if invoice.status == Invoice.Status.VOID:
                self._text(RIGHT, y - 22, _("Void"), 12, BOLD, right=True)
        y -= 52
        mine = [invoice.issuer_name, *invoice.issuer_address.splitlines()]
        if invoice.issuer_tax_id:
            mine.append(_("Tax id: %(id)s") % {"id": invoice.issuer_tax_id})
        theirs = [invoice.legal_name, *invoice.address.splitlines()]
        if invoice.country:
            theirs.append(invoice.country)
        if invoice.tax_id:
            theirs.append(_("Tax id: %(id)s") % {"id": invoice.tax_id})
        half = (RIGHT - LEFT) / 2 - 12
        low = y
        for x, label, block in (
            (LEFT, _("From"), mine),
            (LEFT + half + 24, _("To"), theirs),
        ):
            at = y
            if draw:
                self._text(x, at, label, 8, grey=True)
            for text in block:
                for part in self._wrapped(text, 10, half):
                    at -= 13
                    if draw:
                        self._text(x, at, part, 10)
            low = min(low, at)
        y = low - 26
        for label, value in self._facts():
            if draw:
                self._text(LEFT, y, label, 9, grey=True)
                self._text(LEFT + 110, y, value, 9)
            y -= 14
        return y - 12

    def _facts(self) -> list[tuple[str, str]]:
        invoice = self.invoice
        first = invoice.period_start.astimezone(self.zone).date()
        last = last_day(invoice.period_end, self.zone)
        facts = [(_("Period"), f"{first} – {last} ({invoice.time_zone})")]
        if invoice.issued_at is not None:
            issued = invoice.issued_at.astimezone(self.zone).date()
            facts.insert(0, (_("Issued"), str(issued)))
        if invoice.corrects is not None:
            facts.append((_("Corrects invoice"), str(invoice.corrects.number)))
        if invoice.reason:
            facts.append((_("Reason"), invoice.reason))
        if invoice.purchase_order:
            facts.append((_("Purchase order"), invoice.purchase_order))
        return facts

    def _table_head(self, y: float) -> float:
        self._text(LEFT, y, _("Description"), 8, grey=True)
        self._text(QUANTITY, y, _("Quantity"), 8, grey=True, right=True)
        self._text(PRICE, y, _("Price"), 8, grey=True, right=True)
        amount = _("Amount (%(currency)s)") % {"currency": self.invoice.currency}
        self._text(RIGHT, y, amount, 8, grey=True, right=True)
        self._rule(y - 6)
        return y - 24

    def _row(self, line: InvoiceLine) -> _Row:
        beneath = " · ".join(part for part in (line.project, line.member, line.key_name) if part)
        notes = self._wrapped(beneath, 8, WHAT_WIDTH) if beneath else []
        if line.period_start < self.invoice.period_start:
            day = line.period_start.astimezone(self.zone).strftime("%Y-%m")
            notes.append(_("Usage of %(month)s that was booked later") % {"month": day})
        return _Row(line, self._wrapped(title(line), 10, WHAT_WIDTH), notes)

    def _draw_row(self, row: _Row, y: float) -> float:
        line = row.line
        amount = money.shown_minor(line.minor, self.invoice.currency)
        # What is too long for its column is set smaller, not over its neighbour.
        many, price = quantity(line), line.unit_price
        size = min(9.0, 9 * QUANTITY_WIDTH / max(1.0, self._width(many, 9)))
        self._text(QUANTITY, y, many, size, right=True)
        size = min(8.0, 8 * PRICE_WIDTH / max(1.0, self._width(price, 8)))
        self._text(PRICE, y, price, size, grey=True, right=True)
        self._text(RIGHT, y, amount, 10, right=True)
        below = y
        for text in row.what:
            self._text(LEFT, below, text, 10)
            below -= 12
        for text in row.beneath:
            self._text(LEFT, below, text, 8, grey=True)
            below -= 10
        return y - row.height

    def _totals(self, y: float) -> None:
        invoice = self.invoice
        self._rule(y + 6)
        y -= 12
        sums = [(_("Subtotal"), invoice.subtotal)]
        if invoice.tax_name:
            sums.append((invoice.tax_title, invoice.tax))
        for label, amount in sums:
            self._text(PRICE, y, label, 10, right=True)
            self._text(RIGHT, y, money.shown_minor(amount, invoice.currency), 10, right=True)
            y -= 15
        y -= 3
        total = f"{invoice.currency} {money.shown_minor(invoice.total, invoice.currency)}"
        self._text(PRICE - 20, y, _("Total"), 12, BOLD, right=True)
        self._text(RIGHT, y, total, 12, BOLD, right=True)

    def _foot(self, page: int, pages: int) -> None:
        self._rule(BOTTOM - 18)
        notes = [
            _(
                "Prices of models: input · cached · output · reasoning, for a million tokens, "
                "· for a request. Of time: for an hour."
            ),
            _("Amounts are after discounts and what is free."),
        ]
        y = BOTTOM - 30
        for note in notes:
            self._text(LEFT, y, note, 7, grey=True)
            y -= 9
        self._text(RIGHT, BOTTOM - 39, f"{page} / {pages}", 8, grey=True, right=True)

    def _rule(self, y: float) -> None:
        self.canvas.setStrokeGray(RULE)
        self.canvas.setLineWidth(0.5)
        self.canvas.line(LEFT, y, RIGHT, y)

    def _text(
        self,
        x: float,
        y: float,
        text: str,
        size: float,
        font: str = PLAIN,
        *,
        grey: bool = False,
        right: bool = False,
    ) -> None:
        if right:
            x -= self._width(text, size, font)
        self.canvas.setFillGray(GREY if grey else 0)
        for run, name in self._runs(text, font):
            self.canvas.setFont(name, size)
            self.canvas.drawString(x, y, run)
            x += stringWidth(run, name, size)

    def _width(self, text: str, size: float, font: str = PLAIN) -> float:
        return float(sum(stringWidth(run, name, size) for run, name in self._runs(text, font)))

    def _runs(self, text: str, font: str) -> Iterator[tuple[str, str]]:
        """The text in parts of one font each."""
        held, held_font = "", font
        for letter in text:
            wanted = font if _latin(letter) else self.font
            if wanted != held_font and held:
                yield held, held_font
                held = ""
            held_font = wanted
            held += letter
        if held:
            yield held, held_font

    def _wrapped(self, text: str, size: float, width: float) -> list[str]:
        """In lines that fit; broken at spaces, else wherever it must be."""
        lines, line = [], ""
        for word in _words(text):
            if line and self._width(line + word.rstrip(), size) > width:
                lines.append(line.rstrip())
                line = ""
            line += word
            while self._width(line.rstrip(), size) > width:
                cut = len(line)
                while cut > 1 and self._width(line[:cut], size) > width:
                    cut -= 1
                lines.append(line[:cut])
                line = line[cut:]
        return [*lines, line.rstrip()] if line.strip() or not lines else lines


_registered: set[str] = set()


def _latin(letter: str) -> bool:
    """Whether the built-in Latin fonts have it."""
    try:
        letter.encode("cp1252")
    except UnicodeEncodeError:
        return False
    return True


def _words(text: str) -> Iterator[str]:
    """Each with the space that follows it."""
    word = ""
    for letter in text:
        word += letter
        if letter == " ":
            yield word
            word = ""
    if word:
        yield word
