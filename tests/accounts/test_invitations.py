"""Inviting, resending, withdrawing, accepting; and every way in which the door is closed."""

import re
from datetime import timedelta

import pytest
from django.core import mail
from django.core.exceptions import PermissionDenied, ValidationError
from django.test import Client
from django.utils import timezone, translation

from accounts.models import Invitation, Membership, Organization, User
from accounts.roles import Role
from portal.lib.errors import Conflict, Unavailable
from tests.cast import person, signed_in


@pytest.fixture
def owner(alice: User, acme: Organization) -> Membership:
    return alice.memberships.get()


def link() -> str:
    return re.search(r"http\S+(/invite/\S+)", mail.outbox[-1].body)[1]  # type: ignore[index]


def test_the_mail_says_who_invites_where_to_and_as_what(owner: Membership) -> None:
    Invitation.send(owner, "charlie@umbrella.example", Role.MEMBER)
    (sent,) = mail.outbox
    assert sent.to == ["charlie@umbrella.example"]
    assert sent.subject == "You are invited to Acme on Modelport"
    assert "alice@acme.example" in sent.body and "Member" in sent.body
    assert "7 days" in sent.body


def test_names_are_not_escaped_in_the_mail(owner: Membership) -> None:
    owner.organization.rename("Tom & “Jerry” <script>")
    Invitation.send(owner, "x@y.example", Role.MEMBER)
    assert "Tom & “Jerry” <script>" in mail.outbox[0].subject


def test_a_name_with_a_line_break_makes_no_header(owner: Membership) -> None:
    Organization.objects.update(name="Acme\nBcc: victim@example.com")
    owner.organization.refresh_from_db()
    Invitation.send(owner, "x@y.example", Role.MEMBER)
    assert "\n" not in mail.outbox[0].subject and mail.outbox[0].recipients() == ["x@y.example"]


def test_the_database_does_not_hold_the_links_token(owner: Membership) -> None:
    invitation = Invitation.send(owner, "x@y.example", Role.MEMBER)
    token = link().split("/")[2]
    assert token not in str(Invitation.objects.values().get())
    assert Invitation.objects.of_token(token).get() == invitation


def test_somebody_with_an_account_accepts_by_one_click(
    owner: Membership, charlie_client: Client, charlie: User
) -> None:
    Invitation.send(owner, "Charlie@Umbrella.example", Role.VIEWER)
    assert charlie_client.get(link()).status_code == 200
    assert not charlie.memberships.filter(organization=owner.organization)  # GET does nothing
    response = charlie_client.post(link())
    assert (response.status_code, response.url) == (302, "/o/acme/")
    assert charlie.memberships.get(organization=owner.organization).role == Role.VIEWER
    assert charlie_client.get(link()).url == "/o/acme/"  # and the link leads home ever after


def test_an_address_that_is_not_proved_opens_nothing(owner: Membership) -> None:
    Invitation.send(owner, "eve@new.example", Role.ADMIN)
    eve = User.objects.create_user("eve@new.example", "x")
    eve.emailaddress_set.create(email=eve.email, verified=False, primary=True)
    page = signed_in(eve).post(link())
    assert page.context["problem"] and not eve.memberships.exists()


def test_a_wrong_address_gets_its_sentence(owner: Membership, charlie_client: Client) -> None:
    Invitation.send(owner, "dora@new.example", Role.MEMBER)
    for page in (charlie_client.get(link()), charlie_client.post(link())):
        words = page.content.decode()
        assert "dora@new.example" in words and "charlie@umbrella.example" in words
    assert owner.organization.memberships.count() == 1


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"expires_at": timezone.now() - timedelta(seconds=1)}, "expired"),
        ({"revoked_at": timezone.now()}, "withdrawn"),
        ({"accepted_at": timezone.now()}, "accepted already"),
    ],
)
def test_a_closed_door_says_why(
    owner: Membership, charlie_client: Client, change: dict[str, object], sentence: str
) -> None:
    Invitation.send(owner, "charlie@umbrella.example", Role.MEMBER)
    Invitation.objects.update(**change)
    for client in (charlie_client, Client()):
        page = client.get(link())
        assert page.status_code == 410 and sentence in page.content.decode()
    assert charlie_client.post(link()).status_code == 410
    assert owner.organization.memberships.count() == 1


def test_an_unknown_link_is_not_found(db: None) -> None:
    assert Client().get("/invite/nonsense/").status_code == 404


def test_a_new_link_replaces_the_old_one(owner: Membership, charlie_client: Client) -> None:
    invitation = Invitation.send(owner, "charlie@umbrella.example", Role.MEMBER)
    old = link()
    Invitation.objects.update(expires_at=timezone.now())
    invitation.refresh_from_db()
    invitation.resend(by=owner)
    assert charlie_client.get(old).status_code == 404
    assert charlie_client.post(link()).status_code == 302


def test_inviting_the_same_address_again_leaves_one_open_invitation(owner: Membership) -> None:
    Invitation.send(owner, "x@y.example", Role.MEMBER)
    Invitation.send(owner, "X@Y.example", Role.ADMIN)
    assert Invitation.objects.unanswered().get().role == Role.ADMIN


def test_a_member_is_not_invited_again(owner: Membership, bob: User) -> None:
    with pytest.raises(ValidationError) as refused:
        Invitation.send(owner, "Bob@acme.example", Role.MEMBER)
    assert list(refused.value.error_dict) == ["email"]


@pytest.mark.parametrize("email", ["", "no address", "a@b@c", "x@y.example\nBcc: z@z.example"])
def test_nonsense_is_no_address(owner: Membership, email: str) -> None:
    with pytest.raises(ValidationError):
        Invitation.send(owner, email, Role.MEMBER)


def test_accepting_twice_or_after_joining_keeps_the_role(owner: Membership, bob: User) -> None:
    bob.memberships.update(role=Role.ADMIN)
    invitation = Invitation(organization=owner.organization, email=bob.email, role=Role.VIEWER)
    invitation.expires_at = timezone.now() + timedelta(days=1)
    invitation.save()
    assert invitation.accept(bob).role == Role.ADMIN
    with pytest.raises(Conflict):
        invitation.accept(bob)


@pytest.mark.parametrize(("by", "role"), [(Role.ADMIN, Role.OWNER), (Role.MEMBER, Role.VIEWER)])
def test_nobody_invites_to_more_than_they_may_give(
    owner: Membership, bob: User, by: Role, role: Role
) -> None:
    bob.memberships.update(role=by)
    with pytest.raises(PermissionDenied):
        Invitation.send(bob.memberships.get(), "x@y.example", role)


def test_where_no_mail_can_be_sent_nothing_changes(
    owner: Membership, alice_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ConnectionRefusedError

    invitation = Invitation.send(owner, "x@y.example", Role.MEMBER)
    former = invitation.token_digest
    monkeypatch.setattr("django.core.mail.backends.locmem.EmailBackend.send_messages", refuse)
    with pytest.raises(Unavailable):
        Invitation.send(owner, "z@y.example", Role.MEMBER)
    with pytest.raises(Unavailable):
        invitation.resend(by=owner)
    assert Invitation.objects.get().token_digest == former
    body = {"email": "z@y.example", "role": "member"}
    page = alice_client.post("/o/acme/invitations/", body)
    assert page.status_code == 422 and "could not be mailed" in page.content.decode()
    assert 'value="z@y.example"' in page.content.decode()  # nothing has to be typed again


def test_the_mail_is_in_the_inviters_language(owner: Membership) -> None:
    with translation.override("ja"):
        Invitation.send(owner, "x@y.example", Role.MEMBER)
    assert "Acme" in mail.outbox[0].subject


def test_another_organizations_invitation_is_not_there(
    owner: Membership, charlie_client: Client
) -> None:
    invitation = Invitation.send(owner, "x@y.example", Role.MEMBER)
    for verb in ("resend", "revoke"):
        address = f"/o/umbrella/invitations/{invitation.id}/{verb}/"
        assert charlie_client.post(address).status_code == 404
    assert Invitation.objects.get().revoked_at is None


def test_withdrawing_by_page(owner: Membership, alice_client: Client) -> None:
    alice_client.post("/o/acme/invitations/", {"email": "x@y.example", "role": "member"})
    invitation = Invitation.objects.get()
    assert "x@y.example" in alice_client.get("/o/acme/members/").content.decode()
    alice_client.post(f"/o/acme/invitations/{invitation.id}/revoke/")
    assert not Invitation.objects.unanswered().exists()
    assert alice_client.post(f"/o/acme/invitations/{invitation.id}/resend/").status_code == 302
    assert len(mail.outbox) == 1  # what is withdrawn is not sent again


def test_someone_invited_twice_over_is_in_both(owner: Membership, umbrella: Organization) -> None:
    dora = person("dora@new.example")
    for membership in (owner, umbrella.memberships.get()):
        Invitation.send(membership, dora.email, Role.MEMBER)
        signed_in(dora).post(link())
    assert {m.organization.name for m in dora.memberships.all()} == {"Acme", "Umbrella"}
