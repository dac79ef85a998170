"""Changing roles, removing, leaving; keys follow."""

import threading
from functools import partial

import pytest
from django.core.exceptions import PermissionDenied
from django.db import connection
from django.test import Client

from accounts.models import ApiKey, Invitation, Membership, Organization, User
from accounts.roles import Role
from portal.lib.errors import Conflict
from tests.cast import person


@pytest.fixture
def owner(alice: User, acme: Organization) -> Membership:
    return alice.memberships.get()


@pytest.fixture
def member(bob: User) -> Membership:
    return bob.memberships.get()


@pytest.mark.parametrize("by", list(Role))
@pytest.mark.parametrize("former", list(Role))
@pytest.mark.parametrize("role", list(Role))
def test_nobody_gives_or_takes_more_than_they_hold(
    owner: Membership, member: Membership, by: Role, former: Role, role: Role
) -> None:
    actor = Membership.objects.create(
        organization=owner.organization, user=User.objects.create(email="x@x.example"), role=by
    )
    Membership.objects.filter(id=member.id).update(role=former)
    member.refresh_from_db()
    if by is Role.OWNER or (by is Role.ADMIN and Role.OWNER not in (former, role)):
        member.change_role(role, by=actor)
        assert Membership.objects.get(id=member.id).role == role
    else:
        with pytest.raises(PermissionDenied):
            member.change_role(role, by=actor)
        assert Membership.objects.get(id=member.id).role == former


def test_a_lower_role_ends_the_keys_that_it_could_not_make(
    owner: Membership, member: Membership, bob: User
) -> None:
    member.change_role(Role.ADMIN, by=owner)
    api, _ = ApiKey.issue(owner.organization, bob, "api")
    management, _ = ApiKey.issue(owner.organization, bob, "script", kind=ApiKey.Kind.MANAGEMENT)
    hers, _ = ApiKey.issue(owner.organization, owner.user, "hers")
    elsewhere, _ = ApiKey.issue(Organization.found("Bob's", bob), bob, "elsewhere")
    member.change_role(Role.MEMBER, by=owner)
    assert set(ApiKey.objects.usable()) == {api, hers, elsewhere}
    member.change_role(Role.VIEWER, by=owner)
    assert set(ApiKey.objects.usable()) == {hers, elsewhere}


def test_whoever_is_removed_takes_their_keys_along(
    owner: Membership, member: Membership, bob: User, alice_client: Client, bob_client: Client
) -> None:
    _, plain = ApiKey.issue(owner.organization, bob, "laptop")
    address = f"/o/acme/members/{member.id}/remove/"
    page = alice_client.get(address).content.decode()
    assert "1 key" in page and "bob@acme.example" in page
    assert Membership.objects.filter(id=member.id).exists()
    assert alice_client.post(address).status_code == 302
    assert ApiKey.authenticate(plain, "api") is None
    assert bob_client.get("/o/acme/").status_code == 404


def test_one_may_leave(bob_client: Client, member: Membership) -> None:
    response = bob_client.post(f"/o/acme/members/{member.id}/remove/")
    assert (response.status_code, response.url) == (302, "/")
    assert not Membership.objects.filter(id=member.id).exists()


def test_a_member_removes_nobody_else(bob_client: Client, owner: Membership) -> None:
    assert bob_client.post(f"/o/acme/members/{owner.id}/remove/").status_code == 403
    assert Membership.objects.filter(id=owner.id).exists()


def test_the_last_owner_neither_leaves_nor_steps_down(
    owner: Membership, alice_client: Client
) -> None:
    page = alice_client.post(f"/o/acme/members/{owner.id}/remove/", follow=True)
    assert "needs an owner" in page.content.decode()
    alice_client.post(f"/o/acme/members/{owner.id}/role/", {"role": "member"})
    assert Membership.objects.get(id=owner.id).role == Role.OWNER


def test_with_a_second_owner_the_first_may_go(owner: Membership, member: Membership) -> None:
    member.change_role(Role.OWNER, by=owner)
    owner.remove(by=owner)
    assert owner.organization.memberships.get().user == member.user


def test_an_admin_does_not_remove_whoever_became_an_owner_a_moment_ago(
    owner: Membership, member: Membership
) -> None:
    admin = Membership.objects.create(
        organization=owner.organization, user=person("x@x.example"), role=Role.ADMIN
    )
    as_the_admin_saw_it = Membership.objects.get(id=member.id)
    member.change_role(Role.OWNER, by=owner)
    for attempt in (as_the_admin_saw_it.remove, partial(as_the_admin_saw_it.change_role, "viewer")):
        with pytest.raises(PermissionDenied):
            attempt(by=admin)
    assert Membership.objects.get(id=member.id).role == Role.OWNER


def test_whoever_was_shown_out_a_moment_ago_changes_nothing_more(
    owner: Membership, member: Membership
) -> None:
    member.change_role(Role.ADMIN, by=owner)
    as_they_saw_themselves = Membership.objects.get(id=member.id)
    other = Membership.objects.create(
        organization=owner.organization, user=person("x@x.example"), role=Role.VIEWER
    )
    member.remove(by=owner)
    for attempt in (
        partial(other.change_role, Role.ADMIN),
        other.remove,
        partial(Invitation.send, email="back@acme.example", role=Role.ADMIN),
    ):
        with pytest.raises(PermissionDenied):
            attempt(by=as_they_saw_themselves)
    with pytest.raises(Conflict, match="no longer a member"):
        as_they_saw_themselves.change_role(Role.OWNER, by=owner)
    assert Membership.objects.get(id=other.id).role == Role.VIEWER
    assert not Invitation.objects.exists()


def test_no_door_stays_open_behind_whoever_is_removed_or_demoted(
    owner: Membership, member: Membership, bob: User
) -> None:
    member.change_role(Role.ADMIN, by=owner)
    his = Invitation.send(member, "bobs-other-address@x.example", Role.ADMIN)
    hers = Invitation.send(owner, "x@x.example", Role.ADMIN)
    elsewhere = Invitation.send(
        Organization.found("Bob's", bob).memberships.get(), "y@x.example", Role.ADMIN
    )
    member.change_role(Role.MEMBER, by=owner)
    assert set(Invitation.objects.unanswered()) == {hers, elsewhere}
    member.change_role(Role.ADMIN, by=owner)
    his = Invitation.send(member, "bobs-other-address@x.example", Role.VIEWER)
    member.remove(by=owner)
    assert his not in Invitation.objects.unanswered()


def test_an_owner_who_becomes_an_admin_leaves_the_invitations_that_admins_may_send(
    owner: Membership, member: Membership
) -> None:
    member.change_role(Role.OWNER, by=owner)
    Invitation.send(member, "x@x.example", Role.OWNER)
    kept = Invitation.send(member, "y@x.example", Role.MEMBER)
    member.change_role(Role.ADMIN, by=owner)
    assert Invitation.objects.unanswered().get() == kept


@pytest.mark.django_db(transaction=True)
def test_a_key_in_the_making_does_not_survive_its_makers_removal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    acme = Organization.found("Acme", person("alice@acme.example"))
    bob = person("bob@acme.example")
    member = Membership.objects.create(organization=acme, user=bob, role=Role.MEMBER)
    made, checked, go_on = ApiKey._made, threading.Event(), threading.Event()

    def slow(*args: object) -> object:
        checked.set()
        go_on.wait(1)  # the removal is to come in between; it may have to wait for us instead
        return made(*args)

    def make() -> None:
        ApiKey.issue(acme, bob, "laptop")
        connection.close()

    monkeypatch.setattr(ApiKey, "_made", slow)
    thread = threading.Thread(target=make)
    thread.start()
    assert checked.wait(10)
    member.remove(by=acme.memberships.get(role=Role.OWNER))
    go_on.set()
    thread.join()
    assert ApiKey.objects.get().revoked_at is not None


def test_an_invented_role_changes_nothing(alice_client: Client, member: Membership) -> None:
    alice_client.post(f"/o/acme/members/{member.id}/role/", {"role": "emperor"})
    member.refresh_from_db()
    assert member.role == Role.MEMBER


def test_a_role_is_changed_by_page(alice_client: Client, member: Membership) -> None:
    alice_client.post(f"/o/acme/members/{member.id}/role/", {"role": "admin"})
    member.refresh_from_db()
    assert member.role == Role.ADMIN


@pytest.mark.django_db(transaction=True)
def test_two_owners_who_leave_in_the_same_moment_do_not_orphan_the_organization() -> None:
    acme = Organization.found("Acme", person("alice@acme.example"))
    owners = [acme.memberships.get()]
    bob = person("bob@acme.example")
    owners.append(Membership.objects.create(organization=acme, user=bob, role=Role.OWNER))
    start = threading.Barrier(2)
    refused = []

    def leave(membership: Membership) -> None:
        start.wait(10)
        try:
            membership.remove(by=membership)
        except Conflict as error:
            refused.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=leave, args=[m]) for m in owners]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 1
    assert acme.memberships.get().role == Role.OWNER
