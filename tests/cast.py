"""The known cast: Alice owns Acme, Bob is a member of it, Charlie, a stranger, owns Umbrella."""

import pytest
from django.test import Client

from accounts.models import Membership, Organization, User
from accounts.roles import Role

PASSWORD = "correct horse battery staple"


def person(email: str) -> User:
    """A user whose e-mail address is verified, so that signing in works as it does for people."""
    user = User.objects.create_user(email, PASSWORD)
    user.emailaddress_set.create(email=user.email, verified=True, primary=True)
    return user


@pytest.fixture
def alice(db: None) -> User:
    return person("alice@acme.example")


@pytest.fixture
def acme(alice: User) -> Organization:
    return Organization.found("Acme", alice)


@pytest.fixture
def bob(acme: Organization) -> User:
    user = person("bob@acme.example")
    Membership.objects.create(organization=acme, user=user, role=Role.MEMBER)
    return user


@pytest.fixture
def charlie(db: None) -> User:
    return person("charlie@umbrella.example")


@pytest.fixture
def umbrella(charlie: User) -> Organization:
    return Organization.found("Umbrella", charlie)


def signed_in(user: User) -> Client:
    """A browser's worth of session for this person."""
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def alice_client(alice: User, acme: Organization) -> Client:
    return signed_in(alice)


@pytest.fixture
def bob_client(bob: User) -> Client:
    return signed_in(bob)


@pytest.fixture
def charlie_client(charlie: User, umbrella: Organization) -> Client:
    return signed_in(charlie)
