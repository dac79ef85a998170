"""The operator's pages: for operators alone, and what they do."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from django.core.exceptions import ValidationError
from django.core.management import CommandError, call_command
from django.test import Client, override_settings
from django.urls import reverse
from django.utils import timezone

from accounts.models import Organization, User
from accounts.signup import be_operator_if_first
from billing.models import PriceBook
from inference.models import Instance, Node, Quota, Replica
from tests.cast import person, signed_in
from tests.inference.making import an_instance

GB = 10**9


@pytest.fixture
def node(db: None) -> Node:
    return Node.objects.create(
        name="gpu-1",
        cpu_count=32,
        memory_bytes=256 * GB,
        disk_free_bytes=900 * GB,
        gpus=[
            {"index": 0, "name": "H100", "memory_bytes": 80 * GB, "replica_id": ""},
            {"index": 1, "name": "H100", "memory_bytes": 80 * GB, "replica_id": ""},
        ],
        seen_at=timezone.now(),
    )


@pytest.fixture
def operator(db: None) -> Client:
    user = person("olga@operator.example")
    user.is_staff = True
    user.save()
    return signed_in(user)


@pytest.fixture
def instance(acme: Organization) -> Instance:
    return an_instance(acme, "demo")


def requested(organization: Organization, name: str, gpu_count: int = 0) -> Instance:
    return Instance.request(
        organization,
        None,
        name=name,
        model_source="bundled",
        model_id="demo",
        model_revision="0" * 40,
        gpu_count=gpu_count,
    )


@pytest.fixture
def failed(instance: Instance) -> Replica:
    return Replica.objects.create(
        organization=instance.organization,
        instance=instance,
        generation=1,
        state=Replica.State.GONE,
        ended_at=timezone.now(),
        end_reason="out_of_memory",
        end_message="The model does not fit.",
        exit_code=1,
        start_log="torch.OutOfMemoryError: CUDA out of memory",
    )


@pytest.fixture
def addresses(node: Node, acme: Organization, failed: Replica) -> list[str]:
    return [
        *(reverse(name) for name in ("ops", "ops-tenants", "ops-approvals", "ops-prices")),
        *(reverse("ops-failures"), reverse("ops-failure", args=[failed.id])),
        *(reverse("ops-node", args=[node.id]), reverse("ops-tenant", args=[acme.id])),
    ]


def test_they_are_there_for_operators_alone(
    operator: Client, alice_client: Client, client: Client, addresses: list[str]
) -> None:
    for address in addresses:
        assert operator.get(address).status_code == 200, address
        assert alice_client.get(address).status_code == 404, address
        assert client.get(address).url.startswith("/account/login/"), address


def test_what_they_do_is_for_operators_alone(
    alice_client: Client, client: Client, node: Node, acme: Organization, instance: Instance
) -> None:
    acts = [
        reverse("ops-node-act", args=[node.id, "drain"]),
        reverse("ops-decide", args=[instance.id, "approve"]),
        reverse("ops-tenant", args=[acme.id]),
        reverse("ops-prices"),
    ]
    for address in acts:
        assert alice_client.post(address).status_code == 404
        assert client.post(address).url.startswith("/account/login/")
    node.refresh_from_db()
    assert not node.draining and not Quota.objects.exists()


def test_the_way_there_is_shown_to_operators_alone(
    operator: Client, alice_client: Client, node: Node
) -> None:
    assert reverse("ops-tenants").encode() in operator.get(reverse("ops")).content
    assert b'href="/ops/' not in alice_client.get("/o/acme/").content


def test_a_machine_is_cordoned_drained_and_opened(operator: Client, node: Node) -> None:
    seen = []
    for verb in ("cordon", "drain", "open"):
        answer = operator.post(reverse("ops-node-act", args=[node.id, verb]))
        assert answer.url == reverse("ops-node", args=[node.id])
        node.refresh_from_db()
        seen.append((node.cordoned, node.draining))
    assert seen == [(True, False), (True, True), (False, False)]
    assert operator.post(reverse("ops-node-act", args=[node.id, "melt"])).status_code == 404


def test_a_gpu_says_who_holds_it(operator: Client, node: Node, instance: Instance) -> None:
    replica = Replica.objects.create(
        organization=instance.organization, instance=instance, generation=1, gpu_indices=[1]
    )
    node.gpus[1]["replica_id"] = str(replica.id)
    node.save()
    page = operator.get(reverse("ops-node", args=[node.id]))
    assert [bool(gpu["holder"]) for gpu in page.context["node"]["gpus"]] == [False, True]
    assert b"Acme" in page.content
    assert operator.get(reverse("ops")).context["gpus_free"] == 1


@pytest.mark.parametrize("up", [True, False])
def test_a_machine_says_whether_its_engines_are_kept_apart(
    operator: Client, node: Node, up: bool
) -> None:
    Node.objects.update(walls={"up": up, "message": "This is how."})
    page = operator.get(reverse("ops-node", args=[node.id])).content
    assert b"This is how." in page
    assert (b"No walls" in operator.get(reverse("ops")).content) is not up


def test_a_machine_that_went_silent_is_out_of_reach(operator: Client, node: Node) -> None:
    Node.objects.update(seen_at=timezone.now() - timedelta(minutes=5))
    assert operator.get(reverse("ops")).context["nodes"][0]["tone"] == "danger"


def test_a_quota_is_kept_and_asked(
    operator: Client, acme: Organization, alice: User, instance: Instance
) -> None:
    address = reverse("ops-tenant", args=[acme.id])
    assert operator.post(address, {"instances": "1", "gpus": "4"}).url == address
    with pytest.raises(ValidationError) as refused:
        requested(acme, "second")
    assert "1 instances" in refused.value.message_dict["name"][0]
    operator.post(address, {"instances": "5", "gpus": "4"})
    with pytest.raises(ValidationError) as refused:
        requested(acme, "second", gpu_count=8)
    assert "4 GPUs" in refused.value.message_dict["gpu_count"][0]
    requested(acme, "second", gpu_count=4)
    assert operator.post(address, {"gpus": "-1"}).status_code == 422


def test_a_stopped_instance_holds_no_gpu(operator: Client, acme: Organization) -> None:
    Quota.objects.create(organization=acme, gpus=2)
    requested(acme, "first", gpu_count=2).request_stop(None)
    requested(acme, "second", gpu_count=2)


@pytest.mark.parametrize(("verb", "word"), [("approve", "granted"), ("refuse", "refused")])
def test_a_large_request_waits_for_an_operator(
    operator: Client, acme: Organization, verb: str, word: str
) -> None:
    Quota.objects.create(organization=acme, approval_above_gpus=1)
    assert requested(acme, "small", gpu_count=1).approval == ""
    large = requested(acme, "large", gpu_count=2)
    assert large.approval == "pending"
    assert [i for i, _ in operator.get(reverse("ops-approvals")).context["waiting"]] == [large]
    operator.post(reverse("ops-decide", args=[large.id, verb]))
    large.refresh_from_db()
    assert large.approval == word
    assert large.events.first().by.email == "olga@operator.example"
    assert not large.decide_approval(large.events.first().by, granted=True)  # it is decided


RATES = {"prompt": "0.15", "cached": "0.075", "completion": "0.6", "reasoning": "0.6"}


def test_prices_are_entered_once_and_for_what_comes(operator: Client, db: None) -> None:
    address = reverse("ops-prices")
    assert operator.post(address, RATES | {"request": "0"}).url == address
    book = PriceBook.of_house("USD")
    newest = book.versions.first()
    assert newest is not None
    rates = dict(newest.rates.values_list("meter", "nano"))
    assert rates["prompt"] == 150_000_000 and rates["completion"] == 600_000_000
    past = datetime.now(UTC) - timedelta(days=1)
    body = RATES | {"request": "0", "effective_at": past.strftime("%Y-%m-%dT%H:%M")}
    page = operator.post(address, body)
    assert page.status_code == 422 and page.context["form"].errors["effective_at"]
    assert operator.post(address, RATES | {"request": "-1"}).status_code == 422
    assert book.versions.first() == newest
    holds = [row["holds"] for row in operator.get(address).context["versions"]]
    assert holds == [True, False]


def test_a_failed_start_is_read_with_its_log(operator: Client, failed: Replica) -> None:
    page = operator.get(reverse("ops-failure", args=[failed.id]))
    assert b"CUDA out of memory" in page.content
    Replica.objects.update(ready_at=timezone.now())  # it had been ready: no failed start
    assert operator.get(reverse("ops-failure", args=[failed.id])).status_code == 404
    assert operator.get(reverse("ops-failure", args=[UUID(int=1)])).status_code == 404


def test_an_operator_is_made_by_command(alice: User) -> None:
    call_command("operator", "Alice@acme.example")
    alice.refresh_from_db()
    assert alice.is_staff
    call_command("operator", alice.email, remove=True)
    alice.refresh_from_db()
    assert not alice.is_staff
    with pytest.raises(CommandError):
        call_command("operator", "nobody@acme.example")


def test_the_first_one_to_come_in_is_the_operator(alice: User, bob: User) -> None:
    be_operator_if_first(bob)
    be_operator_if_first(alice)
    be_operator_if_first(bob)
    assert [u.is_staff for u in User.objects.order_by("date_joined")] == [True, False]


@override_settings(LOCAL_OUTBOX=False)
def test_where_mail_is_delivered_nobody_is_operator_by_being_first(
    client: Client, alice: User
) -> None:
    client.force_login(alice)
    assert not User.objects.filter(is_staff=True).exists()
