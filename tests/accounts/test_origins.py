"""Origins of websites, as browsers write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accounts import origins


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("*", "*"),
        (" https://app.example ", "https://app.example"),
        ("https://APP.example/", "https://app.example"),
        ("https://app.example:443", "https://app.example"),
        ("http://app.example:80", "http://app.example"),
        ("http://localhost:5173", "http://localhost:5173"),
        ("https://app.example:8443", "https://app.example:8443"),
        ("https://bücher.example", "https://xn--bcher-kva.example"),
        ("http://[::1]:8080", "http://[::1]:8080"),
        ("http://192.168.1.5", "http://192.168.1.5"),
        ("chrome-extension://abcdefghijklmnop", "chrome-extension://abcdefghijklmnop"),
        ("capacitor://localhost", "capacitor://localhost"),
    ],
)
def test_an_origin_is_kept_as_a_browser_sends_it(typed: str, kept: str) -> None:
    assert origins.normal(typed) == kept
    assert origins.normal(kept) == kept


@pytest.mark.parametrize(
    "typed",
    ["", "null", "app.example", "https://", "https://app.example/path", "https://app.example?x=1"]
    + ["https://app.example#x", "https://me@app.example", "https://*.example", "file:///etc/passwd"]
    + ["javascript:alert(1)", "data:text/html,x", "https://app.example:99999", "https://[::1"]
    + [
        "https://a b.example",
        "https://-a.example",
        "https://app.example\r\nX-Evil: 1",
        "**",
        "//x",
    ],
)
def test_what_no_browser_would_send_is_no_origin(typed: str) -> None:
    assert origins.normal(typed) is None


@given(st.text(max_size=80) | st.from_regex(r"https?://[^\n]{0,40}", fullmatch=True))
def test_whatever_is_typed_becomes_a_header_line_or_nothing(typed: str) -> None:
    found = origins.normal(typed)
    if found is not None:
        assert found.isascii() and found.isprintable() and " " not in found
        assert origins.normal(found) == found
