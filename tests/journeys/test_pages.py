"""Every page of the main job as people see it: in both themes, wide and narrow, by keyboard."""

import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from openai import NotFoundError, RateLimitError
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.fakes.hub import tiny_adapter, write_files
from tests.journeys import steps
from tests.journeys.conftest import Watched
from tests.journeys.running import Running

pytestmark = [pytest.mark.journey, pytest.mark.timeout(240)]

EMAIL = "bella@pages.example"
AXE = {
    "runOnly": {
        "type": "tag",
        "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
    }
}
SIGNED_OUT = [
    "/",
    "/pricing/",
    "/account/login/",
    "/account/signup/",
    "/account/password/reset/",
    "/outbox/",
]
SIGNED_IN = [
    "/o/pages/",
    "/o/pages/models/",
    "/o/pages/models/bundled/modelport/demo/",
    "/o/pages/instances/",
    "/o/pages/instances/new/?source=bundled&model=modelport/demo",
    "{instance}/",
    "{instance}/metrics/",
    "{instance}/logs/",
    "{instance}/events/",
    "{instance}/attempts/",
    "{instance}/limits/",
    "{instance}/adapters/",
    "{instance}/settings/",
    "/o/pages/routes/",
    "/o/pages/routes/new/",
    "{route}/",
    "{route}/delete/",
    "/o/pages/providers/",
    "/o/pages/providers/new/",
    "{provider}/",
    "/o/pages/playground/",
    "/o/pages/keys/",
    "/o/pages/keys/new/",
    "{key}/",
    "{key}/limits/",
    "/o/pages/members/",
    "/o/pages/settings/",
    "/o/pages/settings/limits/",
    "/o/pages/usage/",
    "/organizations/new/",
    "/nowhere/",
]


@pytest.fixture(scope="module")
def session(browser: Browser, portal: Running) -> Iterator[dict[str, Any]]:
    """Someone who has signed up, runs an instance and has called it."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    context.set_default_timeout(15_000)
    page = context.new_page()
    steps.sign_up(page, portal, EMAIL, "Pages")
    steps.deploy_demo(page)
    steps.wait_until_ready(page, 60)
    instance = page.url.removeprefix(portal.url).rstrip("/")
    key = steps.make_key(page)
    steps.sdk(portal, key).chat.completions.create(
        model="demo", messages=[{"role": "user", "content": "Hello"}]
    )
    deadline = time.monotonic() + 15
    while "No usage" in page.content() and time.monotonic() < deadline:
        page.goto(f"{portal.url}/o/pages/usage/")
    places = {"instance": instance}
    page.goto(f"{portal.url}/o/pages/keys/")
    places["key"] = steps.address_of(page, "my laptop")
    steps.add_provider(page)
    places["provider"] = steps.address_of(page, "Replace the key of openai")
    steps.make_route(page, "chat", "demo", "openai")
    places["route"] = steps.address_of(page, "chat")
    yield {"state": context.storage_state(), "key": key, "places": places}
    context.close()


@pytest.fixture
def signed_in(
    open_context: Callable[..., BrowserContext], session: dict[str, Any]
) -> Iterator[Page]:
    context = open_context(storage_state=session["state"], viewport={"width": 1440, "height": 900})
    watched = Watched(context.new_page())
    yield watched.page
    assert watched.complaints == []


def check(page: Page, address: str) -> None:
    """Nothing that axe or a narrow screen complains of."""
    overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(overflow) <= 0, f"{address} is wider than the screen"
    results = Axe().run(page, options=AXE)
    problems = [
        f"{violation['id']}: {violation['nodes'][0]['html'][:200]}"
        for violation in results.response["violations"]
    ]
    assert problems == [], address


@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_page_is_sound(
    open_context: Callable[..., BrowserContext],
    portal: Running,
    session: dict[str, Any],
    theme: str,
    width: int,
) -> None:
    options = {"viewport": {"width": width, "height": 900}, "color_scheme": theme}
    for addresses, state in ((SIGNED_OUT, None), (SIGNED_IN, session["state"])):
        context = open_context(storage_state=state, bypass_csp=True, **options)
        for address in addresses:
            page = context.new_page()
            page.goto(portal.url + address.format(**session["places"]))
            page.wait_for_timeout(150)
            check(page, f"{address} ({theme}, {width})")
            page.close()


def test_no_page_breaks_its_own_content_policy(
    signed_in: Page, portal: Running, session: dict[str, Any]
) -> None:
    for address in SIGNED_IN[:-1]:  # the last one is a 404, which the console remarks on
        signed_in.goto(portal.url + address.format(**session["places"]))


def test_an_answer_streams_stops_and_stays_text(signed_in: Page, portal: Running) -> None:
    page = signed_in
    page.goto(f"{portal.url}/o/pages/playground/")
    steps.chat(page, "One **bold** word <img src=x onerror=alert(1)> ![x](http://evil.example/y)")
    answer = page.locator("#thread article").last
    expect(answer.locator("strong")).to_have_text("bold")
    assert answer.locator("img").count() == 0
    page.get_by_label("Message").fill("[[fake tokens=2000 delay=0.02]] go on")
    page.get_by_label("Message").press("Enter")
    expect(page.locator("#thread article").last).to_contain_text("You said")
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#thread article").last.locator("[data-stats]")).to_contain_text("stopped")


def test_an_input_methods_enter_does_not_send(signed_in: Page, portal: Running) -> None:
    page = signed_in
    page.goto(f"{portal.url}/o/pages/playground/")
    page.get_by_label("Message").fill("你好")
    page.get_by_label("Message").dispatch_event(
        "keydown", {"key": "Enter", "isComposing": True, "bubbles": True}
    )
    assert page.locator("#thread > *").count() == 0


def test_the_keyboard_alone_is_enough(signed_in: Page, portal: Running) -> None:
    page = signed_in
    page.goto(f"{portal.url}/o/pages/")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("g")
    page.keyboard.press("i")
    expect(page.get_by_role("heading", name="Instances", level=1)).to_be_visible()


def test_a_route_is_made_and_called_without_javascript(
    open_context: Callable[..., BrowserContext], portal: Running, session: dict[str, Any]
) -> None:
    context = open_context(storage_state=session["state"], java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{portal.url}/o/pages/routes/new/")
    page.get_by_label("Name").fill("alias")
    page.get_by_role("button", name="More rows").click()
    expect(page.get_by_role("group", name="Target 4")).to_be_visible()
    page.get_by_role("group", name="Target 4").get_by_label("Leads to").select_option(label="demo")
    page.get_by_label("Name").press("Enter")
    expect(page.get_by_role("cell", name="alias", exact=True)).to_be_visible()
    page.wait_for_timeout(1000)  # until the gateway has heard
    answer = steps.sdk(portal, session["key"]).chat.completions.create(
        model="alias", messages=[{"role": "user", "content": "Hello"}]
    )
    assert answer.usage is not None


def test_a_limit_of_a_key_holds_as_soon_as_it_is_saved(
    signed_in: Page, portal: Running, session: dict[str, Any]
) -> None:
    page = signed_in
    page.goto(f"{portal.url}/o/pages/keys/new/")
    page.get_by_label("Name", exact=True).fill("limited")
    page.get_by_role("button", name="Make the key").click()
    key = page.locator("#new-key").inner_text().strip()
    page.goto(f"{portal.url}/o/pages/keys/")
    page.get_by_role("link", name="limited", exact=True).click()
    page.get_by_role("main").get_by_role("link", name="Limits").click()
    page.get_by_label("Requests per day").fill("1")
    page.get_by_label("Requests per day").press("Enter")
    expect(page.get_by_label("Requests per day")).to_have_value("1")
    page.wait_for_timeout(1000)  # until the gateway has heard
    client = steps.sdk(portal, key)
    client.models.list()
    ask = {"model": "demo", "messages": [{"role": "user", "content": "Hello"}]}
    client.chat.completions.create(**ask)  # type: ignore[call-overload]
    with pytest.raises(RateLimitError) as refused:
        client.chat.completions.create(**ask)  # type: ignore[call-overload]
    assert refused.value.code == "rate_limit_exceeded"
    assert refused.value.response.headers["x-ratelimit-limit-requests"] == "1"


def test_an_adapter_is_added_and_called_without_a_restart(
    open_context: Callable[..., BrowserContext], portal: Running, session: dict[str, Any]
) -> None:
    write_files(portal.home / "models" / "tone", tiny_adapter(width=128))
    narrow = {"viewport": {"width": 390, "height": 900}, "bypass_csp": True}
    page = open_context(storage_state=session["state"], **narrow).new_page()
    instance = portal.url + session["places"]["instance"]
    page.goto(f"{instance}/settings/")
    page.get_by_label("LoRA adapters").check()
    page.get_by_role("button", name="Make this revision").click()
    page.get_by_role("main").get_by_role("link", name="Adapters").click()
    page.get_by_label("Name").fill("tone")
    page.get_by_label("Source").select_option(label="Local folder")
    page.get_by_label("Adapter", exact=True).fill("tone")
    page.get_by_label("Adapter", exact=True).press("Enter")
    row = page.get_by_role("row", name="tone")
    expect(row).to_contain_text("Ready", timeout=60_000)
    check(page, "adapters")
    client = steps.sdk(portal, session["key"])
    ask = {"model": "tone", "messages": [{"role": "user", "content": "Hello"}]}
    answer = client.chat.completions.create(**ask)  # type: ignore[call-overload]
    assert answer.model == "tone"
    page.get_by_role("button", name="Remove tone").click()
    expect(row).to_have_count(0, timeout=30_000)
    with pytest.raises(NotFoundError):
        client.chat.completions.create(**ask)  # type: ignore[call-overload]


def test_the_theme_is_remembered(signed_in: Page, portal: Running) -> None:
    page = signed_in
    page.goto(f"{portal.url}/o/pages/")
    page.get_by_role("button", name="Change between light and dark").click()
    expect(page.locator("html")).to_have_class(re.compile("dark"))
    page.reload()
    expect(page.locator("html")).to_have_class(re.compile("dark"))


def test_a_stranger_sees_nothing_of_it(page: Page, portal: Running) -> None:
    steps.sign_up(page, portal, "charlie@umbrella.example", "Umbrella")
    assert page.request.get(f"{portal.url}/o/pages/").status == 404


def test_an_instance_is_deleted_by_its_name(signed_in: Page, portal: Running) -> None:
    page = signed_in
    page.goto(f"{portal.url}/o/pages/models/bundled/modelport/demo/")
    page.get_by_role("link", name="Deploy").click()
    page.get_by_label("Name").fill("short-lived")
    page.get_by_role("button", name="Start the instance").click()
    steps.wait_until_ready(page, 60)
    steps.delete_instance(page, "short-lived")
    expect(page.get_by_role("cell", name="short-lived")).to_have_count(0, timeout=30_000)
