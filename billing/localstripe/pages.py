"""The pages that people see: where they pay, and the customer's portal. HTML without a script."""

import gettext
from collections.abc import Callable
from html import escape
from pathlib import Path

from billing.localstripe.world import Object, World

LOCALES = Path(__file__).resolve().parents[2] / "portal" / "locale"
WITHOUT_DECIMALS = frozenset({"jpy", "krw", "vnd", "clp"})

STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { margin: 0; }
header p { margin: 0; }
.banner { background: #8a4b00; color: #fff; padding: .75rem 1rem; text-align: center; }
main { max-width: 26rem; margin: 2.5rem auto; padding: 0 1rem; }
h1 { font-size: 1.25rem; } .amount { font-size: 2rem; font-weight: 600; margin: .5rem 0 1.5rem; }
button, .button { display: block; width: 100%; box-sizing: border-box; padding: .75rem;
  margin: .5rem 0; font: inherit; font-weight: 600; border: 1px solid #767676; border-radius: .5rem;
  text-align: center; text-decoration: none; cursor: pointer; background: Canvas;
  color: CanvasText; }
button.first { background: #1f5fd0; border-color: #1f5fd0; color: #fff; }
:focus-visible { outline: 3px solid #5b9bff; outline-offset: 2px; }
.problem { border: 1px solid #c2372e; border-radius: .5rem; padding: .75rem; }
li { display: flex; gap: 1rem; align-items: center; } li form { margin-left: auto; }
ul { padding: 0; }
"""

Words = Callable[[str], str]


def words(accept_language: str) -> Words:
    """The reader's language, as far as the portal's own catalogues have it."""
    wanted = [part.split(";")[0].strip() for part in accept_language.split(",")]
    names = {"zh-tw": "zh_Hant", "zh-hant": "zh_Hant", "zh-cn": "zh_Hans", "zh-hans": "zh_Hans"}
    languages = [names.get(tag.lower(), tag.partition("-")[0]) for tag in wanted if tag]
    first = languages[:1] if languages and not languages[0].startswith("en") else []
    return gettext.translation("django", LOCALES, first or ["en"], fallback=True).gettext


def shown_amount(amount: int | None, code: str | None) -> str:
    """As people write it: "25.00 USD", "300 TWD"."""
    if amount is None or code is None:
        return ""
    if code == "twd":
        return f"{amount // 100:,} TWD"
    if code in WITHOUT_DECIMALS:
        return f"{amount:,} {code.upper()}"
    return f"{amount // 100:,}.{amount % 100:02} {code.upper()}"


def _page(_: Words, title: str, inside: str) -> str:
    banner = _("This is a demonstration of paying. No money moves, and you are asked for no card.")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title>"
        '<link rel="stylesheet" href="/style.css"></head><body>'
        f'<header><p class="banner" role="note">{escape(banner)}</p></header>'
        f"<main><h1>{escape(title)}</h1>{inside}</main></body></html>"
    )


def checkout(_: Words, session: Object, items: list[Object], problem: str = "") -> str:
    """Where somebody pays, declines, or goes back."""
    if session["status"] != "open":
        return _page(
            _, _("This page is no longer open"), f"<p>{escape(_('Its payment is over.'))}</p>"
        )
    setup = session["mode"] == "setup"
    title = _("Save a card") if setup else _("Pay")
    what = "".join(f"<p>{escape(str(each['description'] or ''))}</p>" for each in items)
    amount = shown_amount(session["amount_total"], session["currency"])
    told = f'<p class="problem" role="alert">{escape(problem)}</p>' if problem else ""
    pay = _("Save a demo card") if setup else _("Pay with a demo card")
    buttons = [("pay", pay, "first"), ("decline", _("Let the card be declined"), "")]
    if session["cancel_url"]:
        buttons.append(("cancel", _("Cancel"), ""))
    forms = "".join(
        f'<button class="{css}" name="do" value="{name}">{escape(label)}</button>'
        for name, label, css in buttons
    )
    form = f'<form method="post">{forms}</form>'
    return _page(_, title, f'{what}<p class="amount">{escape(amount)}</p>{told}{form}')


def portal(_: Words, world: World, session: Object) -> str:
    """A customer's cards and invoices."""
    cards = [
        each
        for each in world.store.all("payment_method")
        if each["customer"] == session["customer"]
    ]
    rows = "".join(
        f"<li><span>{escape(card['card']['brand'])} … {escape(card['card']['last4'])}</span>"
        f'<form method="post"><button name="detach" value="{escape(card["id"])}">'
        f"{escape(_('Remove'))}</button></form></li>"
        for card in cards
    )
    invoices = "".join(
        f"<li><span>{escape(each['number'] or '')}</span><span>"
        f"{escape(shown_amount(each['total'], each['currency']))}</span>"
        f"<span>{escape(each['status'])}</span></li>"
        for each in world.store.all("invoice")
        if each["customer"] == session["customer"]
    )
    back = session["return_url"]
    link = f'<a class="button" href="{escape(back)}">{escape(_("Back"))}</a>' if back else ""
    none = f"<p>{escape(_('There are none.'))}</p>"
    return _page(
        _,
        _("Payment details"),
        f"<h2>{escape(_('Cards'))}</h2>{f'<ul>{rows}</ul>' if rows else none}"
        f"<h2>{escape(_('Invoices'))}</h2>{f'<ul>{invoices}</ul>' if invoices else none}{link}",
    )
