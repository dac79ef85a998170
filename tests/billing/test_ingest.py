"""Usage rows: every request once, whatever is replayed, refused or out of date."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from django.db import connection

from accounts.models import ApiKey, Organization
from billing import usage
from billing.models import UsageEvent
from portal.lib.ids import uuid7
from tests.billing.records import admit, final


def test_a_row_says_what_the_gateway_saw(acme: Organization) -> None:
    request = admit(acme)
    assert usage.ingest([(request, final(request, cached=3))]) == 1
    row = UsageEvent.objects.get(request_id=UUID(bytes=request.request_id))
    assert (row.prompt_tokens, row.cached_tokens, row.completion_tokens) == (7, 3, 9)
    assert (row.organization, row.model, row.status, row.ttft_us) == (acme, "demo", 200, 1500)


def test_a_replay_adds_nothing(acme: Organization) -> None:
    requests = [admit(acme) for _ in range(3)]
    batch = [(request, final(request)) for request in requests]
    assert usage.ingest(batch) == 3
    assert usage.ingest(batch + batch) == 0
    assert UsageEvent.objects.count() == 3


def test_a_first_token_that_never_came_has_no_time(acme: Organization) -> None:
    request = admit(acme)
    end = final(request)
    end.ttft_us = -1
    usage.ingest([(request, end)])
    assert UsageEvent.objects.get().ttft_us is None


def test_a_key_remembers_its_last_use_and_never_an_older_one(acme: Organization) -> None:
    key = ApiKey.objects.create(organization=acme, name="k", digest=b"d" * 32)
    newer, older = admit(acme, key=key.id), admit(acme, key=key.id)
    older.admitted_at_us -= 60_000_000
    usage.ingest([(newer, final(newer))])
    usage.ingest([(older, final(older))])
    key.refresh_from_db()
    assert key.last_used_at == datetime.fromtimestamp(newer.admitted_at_us / 1e6, UTC)


@pytest.mark.django_db(transaction=True)
def test_impossible_rows_are_set_aside_and_hold_up_nobody(acme: Organization) -> None:
    requests = [admit(acme) for _ in range(5)]
    batch = [(request, final(request)) for request in requests]
    batch[1] = (requests[1], final(requests[1], prompt=1, cached=2))
    requests[3].organization_id = uuid7().bytes
    refused = usage.ingest_or_set_aside(batch)
    assert [bad.request_id for bad, _, _ in refused] == [
        requests[1].request_id,
        requests[3].request_id,
    ]
    assert UsageEvent.objects.count() == 3


def test_partitions_take_over_what_the_default_one_holds(acme: Organization) -> None:
    far = datetime.now(UTC) + timedelta(days=400)
    request = admit(acme)
    request.request_id = uuid7(int(far.timestamp() * 1000)).bytes
    usage.ingest([(request, final(request))])
    usage.ensure_partitions(far, months_ahead=0)
    usage.ensure_partitions(far, months_ahead=0)
    with connection.cursor() as cursor:
        cursor.execute("SELECT tableoid::regclass::text FROM billing_usage")
        assert cursor.fetchall() == [(f"billing_usage_{far:%Y_%m}",)]
