"""Making, showing once, checking, rotating and ending API keys."""

import string
from datetime import timedelta

import pytest
from django.conf import settings
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import connection
from django.utils import timezone
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from accounts import keys
from accounts.models import ApiKey, Membership, Organization, User
from accounts.models.api_key import LAST_USED_STEP
from accounts.roles import Role
from inference.models import Instance
from portal.lib.errors import Conflict
from portal.lib.ids import uuid7

API, MANAGEMENT = ApiKey.Kind.API, ApiKey.Kind.MANAGEMENT


def instance(organization: Organization, name: str) -> Instance:
    return Instance.objects.create(
        organization=organization, name=name, model_source="bundled", model_id="demo"
    )


def test_a_new_key_opens_what_it_was_made_for(acme: Organization, alice: User) -> None:
    key, plain = ApiKey.issue(acme, alice, "laptop")
    assert ApiKey.authenticate(plain, API) == key
    assert ApiKey.authenticate(plain, MANAGEMENT) is None
    assert plain.startswith(key.prefix) and plain.endswith(key.last4)


def test_the_database_never_holds_the_key(acme: Organization, alice: User) -> None:
    key, plain = ApiKey.issue(acme, alice, "laptop")
    with connection.cursor() as cursor:
        cursor.execute("SELECT k::text FROM accounts_apikey k")
        dump = " ".join(row[0] for row in cursor.fetchall())
    body = plain[len(keys.PREFIX) :]
    assert key.prefix in dump  # the dump does show the row
    assert plain not in dump
    # Nor any long enough part of it, the visible ends aside.
    assert not any(body[i : i + 8] in dump for i in range(len(body) - 7))
    assert keys.digest(plain, settings.API_KEY_PEPPER).hex() in dump


def test_another_pepper_makes_the_key_unknown(
    acme: Organization, alice: User, settings: object
) -> None:
    _, plain = ApiKey.issue(acme, alice, "laptop")
    settings.API_KEY_PEPPER = "another"  # type: ignore[attr-defined]
    assert ApiKey.authenticate(plain, API) is None


def test_ten_thousand_invented_keys_open_nothing(acme: Organization, alice: User) -> None:
    ApiKey.issue(acme, alice, "laptop")
    for _ in range(9_000):
        body = keys._base62(int.from_bytes(uuid7().bytes * 2), keys.BODY_LENGTH)
        assert not keys.well_formed(f"mp-{body}AAAAAA") or keys._checksum(body) == "AAAAAA"
    for _ in range(1_000):  # right in form, and still never issued
        assert ApiKey.authenticate(keys.generate(), API) is None


@hypothesis_settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=60) | st.text(string.ascii_letters + string.digits, max_size=60))
def test_no_text_at_all_opens_anything(db: None, text: str) -> None:
    assert ApiKey.authenticate(text, API) is None
    assert ApiKey.authenticate("mp-" + text, API) is None


@pytest.mark.parametrize("position", range(len(keys.PREFIX), keys.KEY_LENGTH))
def test_one_wrong_letter_is_refused_by_arithmetic(position: int) -> None:
    key = keys.generate()
    wrong = "x" if key[position] != "x" else "y"
    assert not keys.well_formed(key[:position] + wrong + key[position + 1 :])


def test_a_revoked_key_opens_nothing_and_names_who_ended_it(
    acme: Organization, alice: User, bob: User
) -> None:
    key, plain = ApiKey.issue(acme, bob, "laptop")
    key.revoke(by=alice)
    first = key.revoked_at
    key.revoke(by=bob)
    assert ApiKey.authenticate(plain, API) is None
    assert (key.revoked_at, key.revoked_by) == (first, alice)
    assert not key.is_usable


def test_an_expired_key_opens_nothing(acme: Organization, alice: User) -> None:
    key, plain = ApiKey.issue(
        acme, alice, "trial", expires_at=timezone.now() + timedelta(minutes=1)
    )
    assert key.about_to_expire() and key.is_usable
    ApiKey.objects.update(expires_at=timezone.now())
    assert ApiKey.authenticate(plain, API) is None
    assert not ApiKey.objects.usable().exists()


def test_an_expiry_in_the_past_is_refused(acme: Organization, alice: User) -> None:
    with pytest.raises(ValidationError) as refused:
        ApiKey.issue(acme, alice, "trial", expires_at=timezone.now() - timedelta(seconds=1))
    assert list(refused.value.error_dict) == ["expires_at"]


@pytest.mark.parametrize("name", ["", "   ", "x" * 81])
def test_a_key_needs_a_name_of_reasonable_length(
    acme: Organization, alice: User, name: str
) -> None:
    with pytest.raises(ValidationError) as refused:
        ApiKey.issue(acme, alice, name)
    assert list(refused.value.error_dict) == ["name"]


def test_only_the_organizations_own_models_may_be_named(
    acme: Organization, alice: User, umbrella: Organization
) -> None:
    instance(acme, "chat")
    instance(umbrella, "secret")
    key, _ = ApiKey.issue(acme, alice, "laptop", models_allowed=["chat", "chat"])
    assert key.models_allowed == ["chat"]
    with pytest.raises(ValidationError) as refused:
        ApiKey.issue(acme, alice, "laptop", models_allowed=["chat", "secret"])
    assert "secret" in str(refused.value) and "chat," not in str(refused.value)


@pytest.mark.parametrize(
    ("role", "kinds"),
    [
        (Role.OWNER, {"api", "management", "playground"}),
        (Role.ADMIN, {"api", "management", "playground"}),
        (Role.MEMBER, {"api", "playground"}),
        (Role.BILLING, set()),
        (Role.VIEWER, set()),
    ],
)
def test_nobody_makes_a_key_that_reaches_further_than_they_do(
    acme: Organization, bob: User, role: Role, kinds: set[str]
) -> None:
    Membership.objects.filter(user=bob).update(role=role)
    for kind in ApiKey.Kind:
        if kind in kinds:
            assert ApiKey.issue(acme, bob, "k", kind=kind)[0].kind == kind
        else:
            with pytest.raises(PermissionDenied):
                ApiKey.issue(acme, bob, "k", kind=kind)


def test_a_stranger_makes_no_key(acme: Organization, charlie: User) -> None:
    with pytest.raises(PermissionDenied):
        ApiKey.issue(acme, charlie, "k")


def test_members_see_their_own_keys_and_managers_all_but_the_playgrounds(
    acme: Organization, alice: User, bob: User
) -> None:
    hers, _ = ApiKey.issue(acme, alice, "a")
    his, _ = ApiKey.issue(acme, bob, "b")
    ApiKey.playground(acme, bob)
    seen = ApiKey.objects.visible_to
    assert set(seen(bob.memberships.get())) == {his}
    assert set(seen(alice.memberships.get())) == {hers, his}


def test_a_key_asked_for_twice_is_made_once(acme: Organization, alice: User) -> None:
    asked = uuid7()
    ApiKey.issue(acme, alice, "laptop", id=asked)
    with pytest.raises(Conflict):
        ApiKey.issue(acme, alice, "laptop", id=asked)
    assert ApiKey.objects.count() == 1


def test_rotation_lets_both_keys_work_for_the_overlap(acme: Organization, alice: User) -> None:
    instance(acme, "chat")
    old, old_plain = ApiKey.issue(acme, alice, "server", models_allowed=["chat"])
    Instance.objects.update(deleted_at=timezone.now())  # what was allowed once is carried over
    new, new_plain = old.rotate(alice, timedelta(days=1))
    assert ApiKey.authenticate(old_plain, API) == old
    assert ApiKey.authenticate(new_plain, API) == new
    assert (new.name, new.models_allowed, new.expires_at) == ("server", ["chat"], None)
    assert timedelta(hours=23) < old.expires_at - timezone.now() <= timedelta(days=1)


def test_rotation_without_overlap_ends_the_old_key_at_once(acme: Organization, alice: User) -> None:
    old, old_plain = ApiKey.issue(acme, alice, "server")
    old.rotate(alice)
    assert ApiKey.authenticate(old_plain, API) is None
    assert old.revoked_by == alice


def test_rotation_never_prolongs_a_key(acme: Organization, alice: User) -> None:
    soon = timezone.now() + timedelta(hours=1)
    old, _ = ApiKey.issue(acme, alice, "server", expires_at=soon)
    new, _ = old.rotate(alice, timedelta(days=7))
    assert old.expires_at == new.expires_at == soon


def test_a_key_is_rotated_once_and_only_while_it_lives(acme: Organization, alice: User) -> None:
    old, _ = ApiKey.issue(acme, alice, "server")
    old.rotate(alice, timedelta(days=1))
    with pytest.raises(Conflict):
        old.rotate(alice, timedelta(days=1))
    ended, _ = ApiKey.issue(acme, alice, "old server")
    ended.revoke(by=alice)
    with pytest.raises(Conflict):
        ended.rotate(alice)


def test_last_use_is_remembered_without_a_write_per_request(
    acme: Organization, alice: User, django_assert_num_queries: object
) -> None:
    key, plain = ApiKey.issue(acme, alice, "server")
    ApiKey.authenticate(plain, API)
    key.refresh_from_db()
    first = key.last_used_at
    assert first is not None
    with django_assert_num_queries(2):  # type: ignore[operator]
        ApiKey.authenticate(plain, API)
    ApiKey.objects.update(last_used_at=first - LAST_USED_STEP)
    ApiKey.authenticate(plain, API)
    key.refresh_from_db()
    assert key.last_used_at >= first


def test_a_key_dies_with_its_makers_account_and_membership(acme: Organization, bob: User) -> None:
    _, plain = ApiKey.issue(acme, bob, "laptop")
    User.objects.filter(id=bob.id).update(is_active=False)
    assert ApiKey.authenticate(plain, API) is None
    User.objects.filter(id=bob.id).update(is_active=True)
    assert ApiKey.authenticate(plain, API) is not None
    bob.memberships.get().delete()
    assert ApiKey.authenticate(plain, API) is None
