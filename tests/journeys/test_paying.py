"""Somebody tries the payment demo of a fresh Modelport, in a real browser."""

import re
from collections.abc import Callable

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import BrowserContext, Page, expect

from tests.journeys import steps
from tests.journeys.conftest import Watched
from tests.journeys.running import Running
from tests.journeys.test_pages import AXE

pytestmark = [pytest.mark.journey, pytest.mark.timeout(240)]


def clean(page: Page) -> None:
    found = Axe().run(page, options=AXE)
    assert found.violations_count == 0, found.generate_report()


def to_payment(page: Page, amount: str) -> None:
    page.get_by_label("Amount (USD)").fill(amount)
    page.get_by_role("button", name="Go to payment").click()
    expect(page.get_by_role("heading", name="Pay")).to_be_visible()


def test_decline_cancel_and_pay(
    portal: Running, open_context: Callable[..., BrowserContext]
) -> None:
    watched = Watched(open_context(viewport={"width": 1440, "height": 900}).new_page())
    page = watched.page
    steps.sign_up(page, portal, "paula@paying.example", "Paying")
    billing = f"{portal.url}/o/paying/billing/top-up/"
    page.goto(billing)
    expect(page.get_by_text("Payments are a demonstration here")).to_be_visible()
    clean(page)

    to_payment(page, "25")
    assert re.match(r"http://127\.0\.0\.1:\d+/c/pay/cs_test_", page.url)
    expect(page.get_by_role("note")).to_contain_text("No money moves")
    expect(page.get_by_text("25.00 USD")).to_be_visible()
    clean(page)
    page.get_by_role("button", name="Let the card be declined").click()
    expect(page.get_by_role("alert")).to_contain_text("declined")
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_text("Not paid yet")).to_be_visible()
    expect(page.locator("[data-balance]")).to_have_text("0.00 USD")

    to_payment(page, "25")
    page.get_by_role("button", name="Pay with a demo card").press("Enter")
    expect(page.get_by_text("25.00 USD has been added to your credit.")).to_be_visible()
    expect(page.locator("[data-balance]")).to_have_text("25.00 USD")
    page.reload()
    expect(page.locator("[data-balance]")).to_have_text("25.00 USD")
    clean(page)

    page.goto(billing)
    page.get_by_role("button", name="Save a card").click()
    page.get_by_role("button", name="Save a demo card").click()
    expect(page.get_by_text("The card is saved")).to_be_visible()
    page.get_by_label("Top up automatically").check()
    page.get_by_label("When credit falls below (USD)").fill("5")
    page.get_by_label("Pay (USD)").fill("20")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.get_by_text("Pays automatic top-ups")).to_be_visible()
    page.reload()  # without the toast, which is fading
    expect(page.get_by_label("Top up automatically")).to_be_checked()
    clean(page)
    page.get_by_role("button", name="Cards and receipts").click()
    expect(page.get_by_text("visa … 4242")).to_be_visible()
    clean(page)
    page.get_by_role("link", name="Back").click()
    expect(page).to_have_url(billing)
    # The browser tells of the declined payment's status, and of nothing else.
    assert all("402" in complaint for complaint in watched.complaints), watched.complaints
