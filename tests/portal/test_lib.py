"""The bottom layer: identifiers, encryption, locks."""

import threading
from datetime import UTC, datetime, timedelta

import pytest
from django.conf import settings

from portal.lib import crypto
from portal.lib.ids import uuid7, uuid7_floor, uuid7_time
from portal.lib.locks import leadership


def test_identifiers_sort_by_time_and_tell_it() -> None:
    moment = datetime(2026, 11, 20, 12, 0, 0, 123_000, UTC)
    early, late = uuid7(int(moment.timestamp() * 1000)), uuid7()
    assert uuid7_floor(moment) <= early
    assert early < uuid7_floor(moment + timedelta(milliseconds=1))
    assert uuid7_time(early) == moment
    assert (late.version, late.variant) == (7, "specified in RFC 4122")


def test_a_secret_is_read_back_under_its_own_key_and_purpose_only() -> None:
    stored = crypto.encrypt("hf_token", key="k", purpose="hub-token")
    assert b"hf_token" not in stored
    assert crypto.decrypt(stored, key="k", purpose="hub-token") == "hf_token"
    for key, purpose in (("other", "hub-token"), ("k", "provider-key")):
        with pytest.raises(crypto.UnreadableSecret):
            crypto.decrypt(stored, key=key, purpose=purpose)


def test_one_leads_and_the_next_takes_over() -> None:
    stop, took_over = threading.Event(), threading.Event()

    def stand_by() -> None:
        with leadership(settings.ENV.database, "test", stop) as lost:
            if lost is not None:
                took_over.set()

    with leadership(settings.ENV.database, "test", stop) as lost:
        assert lost is not None
        other = threading.Thread(target=stand_by)
        other.start()
        assert not took_over.wait(0.3)
    assert took_over.wait(5)
    other.join()


def test_a_stop_ends_the_waiting() -> None:
    stop = threading.Event()
    stop.set()
    with leadership(settings.ENV.database, "test", stop) as lost:
        assert lost is None
