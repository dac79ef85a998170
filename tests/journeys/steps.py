"""What people do, step by step, by what they see: labels, buttons, headings."""

import re

from openai import OpenAI
from playwright.sync_api import Page, expect

from tests.journeys.running import Running

PASSWORD = "correct horse battery staple"


def sign_up(page: Page, portal: Running, email: str, organization: str) -> None:
    page.goto(portal.url)
    page.get_by_role("main").get_by_role("link", name="Sign up").click()
    page.get_by_label("Email").fill(email)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_label("Organization").fill(organization)
    page.get_by_role("button", name="Sign Up").click()
    page.get_by_label("Code").fill(portal.code_for(email))
    page.get_by_role("button", name="Confirm").click()
    expect(page.get_by_role("heading", name=organization, level=1)).to_be_visible()


def deploy_demo(page: Page, name: str = "demo") -> None:
    page.get_by_role("link", name="Models").first.click()
    page.get_by_role("link", name=re.compile("demo")).first.click()
    page.get_by_role("link", name="Deploy").click()
    page.get_by_label("Name").fill(name)
    page.get_by_role("button", name="Start the instance").click()


def wait_until_ready(page: Page, seconds: float) -> None:
    """The page brings itself up to date; nobody reloads it."""
    expect(page.get_by_role("link", name="Open in playground")).to_be_visible(
        timeout=seconds * 1000
    )


def make_key(page: Page, name: str = "my laptop") -> str:
    """Make an API key in the browser; the key, which is shown this once."""
    page.get_by_role("link", name="API keys").first.click()
    page.get_by_role("link", name=re.compile("New key|Make a key")).first.click()
    page.get_by_label("Name", exact=True).fill(name)
    page.get_by_role("button", name="Make the key").click()
    return page.locator("#new-key").inner_text().strip()


def add_provider(page: Page, name: str = "openai") -> None:
    page.get_by_role("link", name="Providers").first.click()
    page.get_by_role("link", name="Add a provider").click()
    page.get_by_label("Name").fill(name)
    page.get_by_label("Base URL").fill("https://api.example.com/v1")
    page.get_by_label("Its API key").fill("sk-secret")
    page.get_by_role("button", name="Add the provider").click()


def make_route(page: Page, name: str, *places: str) -> None:
    """A chain: each place is tried when those before it cannot answer."""
    page.get_by_role("link", name="Routes").first.click()
    page.get_by_role("link", name=re.compile("New route|Make a route")).click()
    page.get_by_label("Name").fill(name)
    for number, place in enumerate(places, 1):
        row = page.get_by_role("group", name=f"Target {number}")
        row.get_by_label("Leads to").select_option(label=place)
        row.get_by_label("Order").select_option(label=str(number))
        if place == "openai":
            row.get_by_label("Model there").fill("gpt-5")
    page.get_by_role("button", name="Make the route").click()
    expect(page.get_by_role("link", name=name, exact=True)).to_be_visible()


def address_of(page: Page, link: str) -> str:
    """Where a link on this page leads, without the slash at its end."""
    href = page.get_by_role("main").get_by_role("link", name=link, exact=True).get_attribute("href")
    assert href is not None
    return href.rstrip("/")


def sdk(portal: Running, key: str) -> OpenAI:
    return OpenAI(base_url=f"{portal.url}/v1", api_key=key, max_retries=0)


def chat(page: Page, text: str) -> None:
    """Send a message in the playground and wait for the end of the answer."""
    page.get_by_label("Message").fill(text)
    page.get_by_label("Message").press("Enter")
    expect(page.get_by_role("button", name="Send")).to_be_visible(timeout=60_000)
    stats = page.locator("#thread article").last.locator("[data-stats]")
    expect(stats).to_contain_text("tokens", timeout=60_000)


def delete_instance(page: Page, name: str) -> None:
    page.get_by_role("button", name="Delete…").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("button", name="Delete the instance")).to_be_disabled()
    dialog.get_by_role("textbox").fill(name)
    dialog.get_by_role("button", name="Delete the instance").click()
