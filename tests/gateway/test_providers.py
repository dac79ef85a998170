"""Providers: what they are told, what their moods become, and where no name may lead us."""

import asyncio
import ipaddress
import json
import logging
import ssl
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.usage_record import Outcome
from inference.gateway import protocol, providers, router
from inference.gateway.tables import Provider, Target
from inference.gateway.upstream import Pool
from portal.lib.ids import uuid7
from tests.fakes import engine as fake
from tests.fakes import provider as elsewhere
from tests.gateway.house import House, chat, read_answer


@pytest.fixture
async def service(house: House, tmp_path):
    """A service that the route `theirs` leads to."""
    service = elsewhere.Provider()
    server, port, tls = await elsewhere.listen(service, tmp_path)
    house.runtime.provider_tls, house.runtime.provider_hosts = tls, frozenset({"localhost"})
    entered(house, f"https://localhost:{port}/v1")
    yield service
    server.close()


def entered(house: House, base_url: str, name: str = "theirs") -> Provider:
    """A provider with a route of its own."""
    made = house.snapshot.add_provider(name, base_url)
    house.snapshot.add_route(name, to(made))
    return made


def to(provider: Provider, tier: int = 0) -> Target:
    return Target(None, provider.id, "gpt-x", tier, 1)


def known(house: House) -> Provider:
    """The first one that was entered."""
    return next(iter(house.snapshot.providers.values()))


async def called(house: House, text: str = "Hello", extra: str = "", **given):
    """Status, headers and body of a call."""
    reader, writer = await house.connect()
    writer.write(house.call(chat(text) | {"model": "theirs"} | given, extra=extra))
    try:
        return await read_answer(reader)
    finally:
        writer.close()


def error(body: bytes) -> dict[str, str]:
    return json.loads(body)["error"]


# ------------------------------------------------------------------------ what it is told


async def test_it_is_told_the_request_and_nothing_of_who_made_it(house: House, service):
    extra = (
        "Cookie: session=1\r\nTraceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
        "\r\nBaggage: user=alice\r\nX-Forwarded-For: 10.0.0.9\r\nOpenAI-Organization: org-1\r\n"
        "Origin-Agent: me\r\nUser-Agent: alice/1\r\n"
    )
    status, _, _ = await called(house, extra=extra)
    (asked,) = service.asked
    assert (status, asked.method, asked.path) == (200, "POST", "/v1/chat/completions")
    assert asked.headers.pop("authorization") == f"Bearer {elsewhere.SECRET}"
    assert asked.headers.pop("host") == known(house).base_url.split("/")[2]
    assert asked.headers.pop("user-agent") == "modelport"
    assert set(asked.headers) == {
        "content-type",
        "content-length",
        "accept",
        "accept-encoding",
        "x-request-id",
    }


async def test_the_model_has_the_name_that_it_has_there(house: House, service):
    await called(house, top_k=5, user="u")
    assert json.loads(service.asked[0].body) == chat() | {
        "messages": [{"role": "user", "content": "Hello"}],
        "model": "gpt-x",
        "top_k": 5,  # vLLM's own; the provider answers for itself
        "user": "u",
    }


@pytest.mark.parametrize(
    "asked_for", [None, {"include_usage": True, "continuous_usage_stats": True}]
)
async def test_a_stream_asks_for_its_usage_as_openai_knows_it(house: House, service, asked_for):
    options = {"stream_options": asked_for} if asked_for else {}
    status, _, stream = await called(house, stream=True, **options)
    assert json.loads(service.asked[0].body)["stream_options"] == {"include_usage": True}
    assert status == 200
    assert stream.endswith(b"data: [DONE]\n\n")
    assert (b'"usage":{' in stream) == bool(asked_for)
    row = await house.closed_row()
    assert row.final.usage.completion_tokens == len(fake.tokenize(fake.answer("Hello")))


async def test_a_connection_is_used_again(house: House, service):
    for _ in range(3):
        await called(house)
    assert service.connections == 1


# ------------------------------------------------------------------------- its bad moods


@pytest.mark.parametrize(
    ("mood", "status", "says", "faults"),
    [
        (401, 502, "refused its secret (401). Renew it on the Providers page", 0),
        (403, 502, "refused its secret (403)", 0),
        (307, 502, "redirected the call; enter its final address", 0),
        (429, 429, "exceeded your current quota", 0),
        (500, 500, "The server had an error", 1),
        (503, 503, "currently overloaded", 1),
        (418, 502, "answered with the status 418", 0),
        (201, 502, "answered with the status 201", 0),
    ],
)
async def test_what_its_moods_become(house: House, service, mood, status, says, faults):
    service.mood = mood
    answer = await called(house)
    assert answer[0] == status
    assert says in error(answer[2])["message"]
    assert answer[1].get("retry-after") == {429: "7"}.get(mood)
    assert known(house).failures == faults
    assert len(service.asked) == 1  # no redirect is followed, nothing repeated
    row = await house.closed_row()
    assert (row.final.outcome, row.final.status) == (Outcome.ENGINE_ERROR, status)


@pytest.mark.parametrize("mood", ["", 401, 429, 500, 307])
async def test_its_secret_is_told_to_nobody_else(house: House, service, caplog, mood):
    caplog.set_level(logging.DEBUG)
    service.mood = mood
    _, headers, body = await called(house)
    told = [caplog.text, str(headers), body.decode(), repr(known(house))]
    assert not [text for text in told if elsewhere.SECRET in text]


@pytest.mark.parametrize("problem", ["overloaded", "drops", "away"])
async def test_the_next_way_is_taken_while_nothing_was_said(
    house: House, service, tmp_path, problem
):
    (tmp_path / "second").mkdir()
    second = elsewhere.Provider()
    server, port, tls = await elsewhere.listen(second, tmp_path / "second")
    first, spare = known(house), entered(house, f"https://localhost:{port}/v1", "spare")
    tls.load_verify_locations(tmp_path / "authority.pem")
    house.runtime.provider_tls = tls
    service.mood = 503 if problem == "overloaded" else ""
    if problem == "away":
        first.base_url = "https://localhost:1/v1"
    house.snapshot.add_route("theirs", to(first), to(spare, 1))
    service.drops = problem == "drops"
    status, headers, _ = await called(house)
    assert (status, headers["x-modelport-provider"]) == (200, "spare")
    assert (first.failures, spare.failures) == (1, 0)
    assert (await house.closed_row()).admit.replica_id == spare.id
    server.close()


async def test_a_stream_that_breaks_off_is_not_repeated(house: House, service):
    status, _, stream = await called(house, "[[fake drop_after=2]]", stream=True)
    assert status == 200
    assert b'data: {"error":' in stream
    assert b"[DONE]" not in stream
    assert len(service.asked) == 1
    assert (await house.closed_row()).final.outcome == Outcome.UPSTREAM_FAILED


async def test_half_an_answer_is_none(house: House, service):
    status, _, body = await called(house, "[[fake cut=1]]")
    assert (status, error(body)["code"]) == (502, "engine_failed")
    assert known(house).failures == 1


async def test_whoever_hangs_up_stops_it(house: House, service):
    reader, writer = await house.connect()
    writer.write(house.call(chat("[[fake hang=1]]") | {"model": "theirs"}))
    await house.until(lambda: service.running)
    writer.close()
    await house.until(lambda: not service.running)
    assert (await house.closed_row()).final.outcome == Outcome.CLIENT_GONE
    assert known(house).outstanding == 0
    assert await reader.read() == b""


async def test_one_that_never_answers_is_given_up(house: House, service, monkeypatch):
    monkeypatch.setattr(protocol, "FIRST_BYTE_TIMEOUT", 0.1)
    status, _, _ = await called(house, "[[fake hang=1]]")
    assert status == 504
    await house.until(lambda: not service.running)


async def test_one_that_keeps_failing_is_left_alone_for_a_while(house: House, service):
    service.mood = 500
    statuses = [(await called(house))[0] for _ in range(router.FAILURES_TO_OPEN + 2)]
    assert statuses == [500] * router.FAILURES_TO_OPEN + [503] * 2
    assert len(service.asked) == router.FAILURES_TO_OPEN
    known(house).open_until = 0.0  # the while is over
    service.mood = ""
    assert (await called(house))[0] == 200
    assert known(house).failures == 0


# --------------------------------------------------------------------- where it leads to


@pytest.mark.parametrize("host", ["a..b", "a" * 64 + ".example", "-", "no-such-host.invalid"])
async def test_a_name_that_no_host_has_is_answered_at_once(house: House, host):
    entered(house, f"https://{host}/v1")
    assert (await called(house))[0] == 503


async def test_a_certificate_for_another_host_is_not_taken(house: House, tmp_path):
    service = elsewhere.Provider()
    server, port, tls = await elsewhere.listen(service, tmp_path, "other.example")
    house.runtime.provider_tls, house.runtime.provider_hosts = tls, frozenset({"localhost"})
    entered(house, f"https://localhost:{port}/v1")
    assert (await called(house))[0] == 503
    assert not service.asked
    server.close()


def a_provider(host: str) -> Provider:
    return Provider(uuid7().bytes, uuid7().bytes, "x", f"https://{host}/v1", "sk")


class Nowhere:
    """A loop from which nothing can be reached; it remembers what was tried."""

    def __init__(self) -> None:
        self.tried: list[tuple[str, int, str]] = []

    async def create_connection(self, factory, address, port, *, ssl, server_hostname):
        self.tried.append((address, port, server_hostname))
        raise OSError(f"no way to {address}")


async def dialled(host: str, *answers: list[str], trusted=frozenset()):
    """What is connected to, attempt by attempt, when the host's name stands for these."""
    loop, turns = Nowhere(), iter(answers)

    async def resolve(name, port):
        return next(turns)

    pool = SimpleNamespace(loop=loop)
    context = ssl.create_default_context()
    connect = providers.opener(a_provider(host), trusted, resolve=resolve, context=context)
    problems = []
    for _ in answers:
        with pytest.raises(OSError) as problem:
            await connect(pool)
        problems.append(type(problem.value))
    return loop.tried, problems


async def test_each_address_is_tried_as_it_was_looked_at_and_the_name_is_for_tls():
    tried, _ = await dialled("api.example:8443", ["2606:4700::1111", "1.1.1.1"])
    assert tried == [
        ("2606:4700::1111", 8443, "api.example"),
        ("1.1.1.1", 8443, "api.example"),
    ]


async def test_a_name_that_turns_inward_later_is_not_followed():
    tried, problems = await dialled("api.example", ["1.1.1.1"], ["127.0.0.1"], ["1.1.1.1", "::1"])
    assert tried == [("1.1.1.1", 443, "api.example")]
    assert problems == [OSError, providers.NotPublic, providers.NotPublic]


async def test_a_name_without_an_address_leads_nowhere():
    assert await dialled("api.example", []) == ([], [OSError])


async def test_a_host_that_the_operator_trusts_may_be_inside():
    tried, _ = await dialled("gpu.example", ["10.0.0.7"], trusted=frozenset({"gpu.example"}))
    assert tried == [("10.0.0.7", 443, "gpu.example")]
    tried, _ = await dialled("x.gpu.example", ["10.0.0.7"], trusted=frozenset({"gpu.example"}))
    assert tried == []


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.1", "2130706433", "0177.0.0.1", "0x7f.1", "0x7f000001", "0"]
    + ["[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[64:ff9b::7f00:1]"]
    + ["localhost", "LOCALHOST", "api.example@127.0.0.1", "api.example:443@127.0.0.1:8443"]
    + ["169.254.169.254", "2852039166", "[fd00:ec2::254]", "168.63.129.16", "192.0.0.192"],
)
async def test_no_writing_of_an_inner_address_leads_inside(host):
    """By the system's own resolver, which reads numbers as the C library always did."""
    loop = asyncio.get_running_loop()
    connect = providers.opener(a_provider(host), frozenset())
    with pytest.raises(providers.NotPublic):
        await connect(Pool("", loop))


# IANA's registries of special addresses: what is not "globally reachable", and more that is not
# anybody's host. https://www.iana.org/assignments/iana-ipv4-special-registry
INNER = ["0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"]
INNER += ["172.16.0.0/12", "192.0.0.0/29", "192.0.2.0/24", "192.168.0.0/16", "198.18.0.0/15"]
INNER += ["198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"]
INNER_6 = ["::/128", "::1/128", "::/96", "64:ff9b:1::/48", "100::/64", "2001::/32", "2001:2::/48"]
INNER_6 += ["2001:db8::/32", "4000::/3", "5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10"]
INNER_6 += ["ff00::/8"]
OUTER = ["1.1.1.0/24", "8.8.8.0/24", "17.0.0.0/8", "104.16.0.0/13", "151.101.0.0/16"]
OUTER += ["216.58.192.0/19"]


def within(networks):
    return st.sampled_from(networks).flatmap(lambda network: st.ip_addresses(network=network))


def writings(address: ipaddress.IPv4Address) -> list[str]:
    """The same host, however it is said."""
    return [
        str(address),
        f"::ffff:{address}",
        str(ipaddress.IPv6Address(0x0064FF9B << 96 | int(address))),
        str(ipaddress.IPv6Address(0x2002 << 112 | int(address) << 80 | 1)),
    ]


@given(within(INNER))
def test_no_inner_address_is_public_however_it_is_written(address):
    assert not [text for text in writings(address) if providers.is_public(text)]


@given(within(INNER_6))
def test_no_inner_address_of_ipv6_is_public(address):
    assert not providers.is_public(str(address))
    assert not providers.is_public(address.exploded)


@given(within(OUTER))
def test_an_outer_address_is_public_however_it_is_written(address):
    assert all(map(providers.is_public, writings(address)))


@given(st.text())
def test_what_is_no_address_is_not_public(text):
    assert not providers.is_public(text + "x")
