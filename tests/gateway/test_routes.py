"""Several ways to an answer, over real sockets: retries, chains, providers, browsers."""

import asyncio
import ssl
from pathlib import Path

import openai
import pytest

from billing.usage_record import Outcome
from inference.gateway import providers
from inference.gateway.tables import Target
from tests.fakes import engine as fake
from tests.fakes.certificates import certificates
from tests.gateway.house import House, chat, read_answer

DEMO = "What is this?"


@pytest.fixture
async def second(house: House):
    """Another instance, `spare`, with an engine of its own."""
    instance = house.snapshot.add_instance("spare")
    path = str(house.home / "spare.sock")
    engine = fake.Engine(fake.options(uds=path, served_model_name="spare"))
    server = await fake.listen(engine)
    house.add_replica(instance, path)
    yield instance
    server.close()


def own(instance, tier=0):
    return Target(instance.id, None, "", tier, 1)


async def asked(house: House, model: str, **given):
    async with house.sdk() as client:
        call = client.chat.completions.with_raw_response.create
        return await call(**chat(DEMO, **given) | {"model": model})


async def test_a_route_leads_to_its_instance_and_says_which(house: House, second):
    house.snapshot.add_route("alias", own(second))
    answer = await asked(house, "alias")
    assert answer.headers["x-modelport-instance"] == "spare"
    assert answer.parse().model == "spare"
    row = await house.closed_row()
    assert (row.admit.model, row.admit.instance_id) == ("alias", second.id)


async def test_routes_are_listed_as_models(house: House, second):
    house.snapshot.add_route("alias", own(second))
    async with house.sdk() as client:
        assert [m.id async for m in client.models.list()] == ["alias", "demo", "spare"]
        assert (await client.models.retrieve("alias")).id == "alias"


async def test_the_next_way_is_tried_before_the_first_byte(house: House, second):
    house.snapshot.add_route("chain", own(house.instance), own(second, 1))
    house.stop_engine()
    for stream in (False, True):
        answer = await asked(house, "chain", stream=stream)
        assert answer.headers["x-modelport-instance"] == "spare"
    assert house.replica.failures == 2
    assert house.replica.outstanding == 0


async def test_an_overloaded_replica_is_passed_over(house: House):
    path = str(house.home / "second.sock")
    server = await fake.listen(fake.Engine(fake.options(uds=path)))
    other = house.add_replica(house.instance, path)
    house.replica.outstanding, other.outstanding = 0, 1
    broken = await fake.listen(Overloaded(fake.options(uds=str(house.home / "broken.sock"))))
    house.replica.address = f"unix:{house.home}/broken.sock"
    async with house.sdk() as client:
        answer = await client.chat.completions.create(**chat(DEMO))
    assert answer.choices[0].message.content == fake.answer(DEMO)
    row = await house.closed_row()
    assert row.admit.replica_id == other.id
    server.close()
    broken.close()


class Overloaded(fake.Engine):
    async def answer(self, path, method, headers, raw, reply):
        raise fake.Refusal(503, "ServiceUnavailable", "The engine is overloaded.")


async def test_after_the_first_byte_nothing_is_repeated(house: House, second):
    house.snapshot.add_route("chain", own(house.instance), own(second, 1))
    async with house.sdk() as client:
        stream = await client.chat.completions.create(
            **chat("[[fake drop_after=2]]") | {"model": "chain"}, stream=True
        )
        with pytest.raises(openai.APIError):
            async for _ in stream:
                pass
    row = await house.closed_row()
    assert row.final.outcome == Outcome.UPSTREAM_FAILED


# ------------------------------------------------------------------------------- providers


@pytest.fixture
async def provider(house: House, tmp_path: Path):
    """An OpenAI-compatible service over TLS, which wants its own secret."""
    authority, chain = certificates(tmp_path, "localhost")
    options = fake.options(served_model_name="gpt-x", api_key="sk-theirs")
    options.enable_force_include_usage = False
    engine = fake.Engine(options)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(chain)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: fake.Reply(engine), "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    house.runtime.provider_tls = ssl.create_default_context(cafile=authority)
    house.runtime.provider_hosts = frozenset({"localhost"})
    made = house.snapshot.add_provider("elsewhere", f"https://localhost:{port}/v1")
    house.snapshot.add_route("theirs", Target(None, made.id, "gpt-x", 0, 1))
    yield made
    server.close()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_provider_answers_behind_our_keys_and_meter(house: House, provider, stream):
    async with house.sdk() as client:
        call = client.chat.completions.with_raw_response.create
        answer = await call(**chat(DEMO, stream=stream) | {"model": "theirs"})
        assert answer.headers["x-modelport-provider"] == "elsewhere"
        if stream:
            assert [chunk.usage async for chunk in answer.parse()][-1] is None
    row = await house.closed_row()
    assert row.admit.replica_id == provider.id
    assert row.final.outcome == Outcome.COMPLETED
    assert row.final.usage.completion_tokens == len(fake.tokenize(fake.answer(DEMO)))


async def test_a_refused_secret_is_the_organization_s_to_mend(house: House, provider):
    provider.secret = "sk-old"
    with pytest.raises(openai.InternalServerError, match="Renew it on the Providers page") as e:
        await asked(house, "theirs")
    assert e.value.status_code == 502
    assert "sk-old" not in str(e.value)


async def test_an_own_instance_falls_back_to_a_provider_only_by_leave(house: House, provider):
    house.stop_engine()
    targets = own(house.instance), Target(None, provider.id, "gpt-x", 1, 1)
    house.snapshot.add_route("kept-here", *targets)
    house.snapshot.add_route("may-leave", *targets, data_may_leave=True)
    with pytest.raises(openai.InternalServerError):
        await asked(house, "kept-here")
    answer = await asked(house, "may-leave")
    assert answer.headers["x-modelport-provider"] == "elsewhere"


async def test_a_private_address_is_not_called(house: House, provider):
    house.runtime.provider_hosts = frozenset()
    with pytest.raises(openai.InternalServerError) as refused:
        await asked(house, "theirs")
    assert refused.value.status_code == 503


async def test_a_certificate_of_nobody_is_not_trusted(house: House, provider):
    house.runtime.provider_tls = None
    with pytest.raises(openai.InternalServerError) as refused:
        await asked(house, "theirs")
    assert refused.value.status_code == 503


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.0.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",  # noqa: S104
        "192.0.2.1",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1%eth0",
        "fc00::1",
        "::ffff:127.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b:1::1",
        "2002:7f00:1::",
        "nonsense",
    ],
)
def test_addresses_that_are_not_on_the_internet(address):
    assert not providers.is_public(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "2606:4700::1111"])
def test_addresses_that_are(address):
    assert providers.is_public(address)


async def test_each_connection_looks_at_the_address_that_it_goes_to(house: House):
    """A name that led to the internet at first may lead home the next time."""
    made = house.snapshot.add_provider("rebound", "https://rebound.example/v1")
    answers = iter([["10.0.0.7"], ["203.0.113.9", "10.0.0.7"]])

    async def resolve(host, port):
        return next(answers)

    connect = providers.opener(made, frozenset(), resolve=resolve)
    for _ in range(2):
        with pytest.raises(providers.NotPublic):
            await connect(None)


# -------------------------------------------------------------------------------- browsers


async def preflight(house: House, origin: str):
    reader, writer = await house.connect()
    writer.write(
        b"OPTIONS /v1/chat/completions HTTP/1.1\r\nHost: x\r\nOrigin: %b\r\n"
        b"Access-Control-Request-Method: POST\r\n"
        b"Access-Control-Request-Headers: authorization, content-type\r\n\r\n" % origin.encode()
    )
    answer = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    writer.close()
    return answer


async def test_a_browser_s_program_may_call_where_a_key_allows_its_website(house: House):
    house.key = house.new_key(origins=frozenset({"https://app.example"}))
    answer = await preflight(house, "https://app.example")
    assert answer.startswith("http/1.1 204")
    assert "access-control-allow-origin: https://app.example\r\n" in answer
    assert "authorization" in answer
    assert (await preflight(house, "https://evil.example")).startswith("http/1.1 403")
    reader, writer = await house.connect()
    writer.write(house.call(chat(), extra="Origin: https://app.example\r\n"))
    status, headers, _ = await read_answer(reader)
    assert (status, headers["access-control-allow-origin"]) == (200, "https://app.example")
    assert "x-request-id" in headers["access-control-expose-headers"].lower()
    writer.write(house.call(chat(), extra="Origin: https://evil.example\r\n"))
    status, headers, body = await read_answer(reader)
    writer.close()
    assert status == 403
    assert b"origin_not_allowed" in body
    assert "access-control-allow-origin" not in headers


async def test_a_key_without_websites_serves_no_browser_and_every_program(house: House):
    reader, writer = await house.connect()
    writer.write(house.call(chat(), extra="Origin: https://app.example\r\n"))
    status, headers, _ = await read_answer(reader)
    writer.close()
    assert status == 200
    assert "access-control-allow-origin" not in headers
    assert (await preflight(house, "https://app.example")).startswith("http/1.1 403")
