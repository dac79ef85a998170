"""The metrics page: for whom, over which range, with what numbers; and the targets on it."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from django.conf import settings
from django.test import Client, override_settings
from django.utils import timezone

from accounts.models import Organization, User
from accounts.roles import Role
from billing import usage
from inference import samples
from inference.models import Instance, MetricSample, Replica, ServingInterval, SloTarget
from inference.provisioners.base import Figures, GpuFigures, Histogram, Observed, Phase
from tests.billing.records import admit, final
from tests.cast import signed_in
from tests.inference.making import an_instance
from tests.inference.test_costs import LISTED

WANTED = {"ttft_ms": "400", "tokens_per_second": "", "gpu_utilization": "70", "enabled": "on"}


@pytest.fixture
def instance(acme: Organization) -> Instance:
    return an_instance(acme, "demo")


@pytest.fixture
def url(instance: Instance) -> str:
    return f"{instance.get_absolute_url()}metrics/"


@pytest.fixture
def computed(instance: Instance) -> Replica:
    """A minute of work that a real look would have found, on a GPU."""
    replica = Replica.objects.create(
        organization=instance.organization, instance=instance, generation=1
    )
    now = timezone.now()
    before = Figures(process="one")
    after = Figures(
        process="one",
        prompt_tokens=4000,
        completion_tokens=6000,
        running=2,
        prefix_queries=4000,
        prefix_hits=1000,
        ttft=Histogram([0.5, 1.0], [100, 0, 0]),
        itl=Histogram([0.02, 0.1], [6000, 0, 0]),
        gpus=[GpuFigures(0, 60, 80, 0.9)],
    )
    samples.take(replica, Observed(phase=Phase.READY, figures=before), now - timedelta(minutes=2))
    samples.take(replica, Observed(phase=Phase.READY, figures=after), now - timedelta(minutes=1))
    return replica


@pytest.fixture
def priced(tmp_path: Path) -> Iterator[None]:
    listed = tmp_path / "prices.toml"
    listed.write_text(LISTED)
    env = replace(settings.ENV, gpu_hour_cost=Decimal(2), external_prices=listed)
    with override_settings(ENV=env):
        yield


def labelled(client: Client, url: str) -> dict[str, str]:
    return {n.label: n.value for n in client.get(url).context["numbers"]}


def test_the_five_numbers_come_from_what_the_engine_counted(
    alice_client: Client, url: str, computed: Replica
) -> None:
    numbers = labelled(alice_client, f"{url}?range=1h")

    assert numbers["First token, p95"] == "475\N{NBSP}ms"
    assert numbers["Prompts from the cache"] == "25\N{NBSP}%"
    assert float(numbers["Output tokens per second"]) == pytest.approx(6000 / 3600, rel=0.05)


def test_a_target_is_said_to_be_met_or_missed_in_words(
    alice_client: Client, url: str, computed: Replica, instance: Instance
) -> None:
    assert "Target: 500 ms, met" in alice_client.get(url).content.decode()

    SloTarget.of(instance).set(ttft_ms=400)

    page = alice_client.get(url).content.decode()
    assert "Target: 400 ms, missed" in page
    assert 'class="line slo"' in page


@pytest.mark.parametrize("key", ["1h", "24h", "7d", "30d"])
def test_each_range_has_all_charts_with_their_tables(
    alice_client: Client, url: str, computed: Replica, key: str
) -> None:
    page = alice_client.get(f"{url}?range={key}")

    text = page.content.decode()
    assert text.count("Show as a table") == 7
    assert f'href="?range={key}" aria-current="true"' in text
    assert [c.id for c in page.context["charts"]][-1] == "gpu"
    assert "style=" not in text and "<script>" not in text


def test_requests_and_failures_are_those_of_this_instance(
    alice_client: Client, url: str, acme: Organization, instance: Instance
) -> None:
    ours, failed, others = admit(acme), admit(acme), admit(acme)
    ours.instance_id = failed.instance_id = instance.id.bytes
    bad = final(failed)
    bad.status = 500
    usage.ingest([(ours, final(ours)), (failed, bad), (others, final(others))])

    page = alice_client.get(url)

    assert labelled(alice_client, url)["Requests"] == "2"
    assert "1 failed" in page.content.decode()


def test_an_instance_that_never_ran_says_so(alice_client: Client, url: str) -> None:
    assert "Nothing was measured in this time." in alice_client.get(url).content.decode()


def test_without_the_price_of_a_gpu_it_says_what_to_set(alice_client: Client, url: str) -> None:
    assert "GPU_HOUR_COST" in alice_client.get(url).content.decode()


def test_a_million_tokens_are_compared_with_the_list(
    alice_client: Client, url: str, instance: Instance, computed: Replica, priced: None
) -> None:
    Instance.objects.update(gpu_count=1)
    ServingInterval.objects.create(
        organization=instance.organization,
        instance=instance,
        replica=computed,
        gpu_count=1,
        started_at=timezone.now() - timedelta(minutes=30),
    )

    page = alice_client.get(url)
    text = page.content.decode()

    load = page.context["cost"]["load"]
    assert load.tokens == 10_000 and load.cost == pytest.approx(Decimal(1), rel=Decimal("0.01"))
    assert "https://there.example/prices, 2026-11-01" in text
    assert "cheaper there" in text


def test_those_who_manage_set_targets_and_others_read_them(
    alice_client: Client, bob: User, url: str, instance: Instance
) -> None:
    bob.memberships.update(role=Role.VIEWER)
    viewer = signed_in(bob)
    assert viewer.get(url).status_code == 200
    assert viewer.post(url, WANTED).status_code == 403

    assert alice_client.post(f"{url}?range=7d", WANTED).url == f"{url}?range=7d"

    target = SloTarget.objects.get()
    assert (target.ttft_ms, target.tokens_per_second, target.gpu_utilization) == (400, None, 70)
    assert target.enabled and target.instance == instance


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ttft_ms": "0"}, "greater than or equal to 1"),
        ({"gpu_utilization": "101"}, "less than or equal to 100"),
        ({"webhook_url": "http://hooks.example"}, "begins with https://"),
        ({"webhook_url": "https://127.0.0.1/hook"}, "begins with https://"),
        ({"webhook_url": "https://metadata.internal/"}, "begins with https://"),
        ({"webhook_url": "https://a.example/?x y"}, "plain letters"),
    ],
)
def test_a_target_that_cannot_be_is_refused_in_place(
    alice_client: Client, url: str, change: dict[str, str], words: str
) -> None:
    answer = alice_client.post(url, WANTED | change)

    assert answer.status_code == 422
    assert words in answer.content.decode()
    assert not SloTarget.objects.exists()


def test_the_secret_of_webhooks_is_for_those_who_manage(
    alice_client: Client, bob: User, url: str
) -> None:
    alice_client.post(url, WANTED | {"webhook_url": "https://hooks.example/x?token=1"})
    bob.memberships.update(role=Role.VIEWER)
    secret = SloTarget.objects.get().secret
    assert secret.startswith("whsec_")
    assert secret in alice_client.get(url).content.decode()
    assert secret not in signed_in(bob).get(url).content.decode()


def test_strangers_see_nothing(
    charlie_client: Client, client: Client, url: str, instance: Instance
) -> None:
    assert charlie_client.get(url).status_code == 404
    assert charlie_client.post(url, WANTED).status_code == 404
    assert charlie_client.get(url.replace("acme", "umbrella")).status_code == 404
    assert client.get(url).status_code == 302


def test_a_poll_gets_the_changing_part_alone(alice_client: Client, url: str) -> None:
    part = alice_client.get(f"{url}?range=1h", headers={"HX-Request": "true"}).content.decode()
    assert "<html" not in part
    assert f'hx-get="{url}?range=1h"' in part


def test_another_instances_samples_are_not_counted(
    alice_client: Client, url: str, computed: Replica, acme: Organization
) -> None:
    other = an_instance(acme, "other")
    MetricSample.objects.filter(instance_id=computed.instance_id).update(instance=other)
    assert labelled(alice_client, url)["First token, p95"] == "–"


def test_the_overview_has_the_five_numbers_of_the_last_hour(
    alice_client: Client, instance: Instance, computed: Replica
) -> None:
    page = alice_client.get(instance.get_absolute_url())

    assert [n.value for n in page.context["numbers"]][0] == "475\N{NBSP}ms"
    assert f"{instance.get_absolute_url()}metrics/?range=1h" in page.content.decode()
