import json
from argparse import ArgumentParser

from allauth.account.models import EmailAddress
from django.conf import settings
from django.core.management.base import BaseCommand
from django.db import transaction

from accounts.models import ApiKey, Membership, Organization, User


class Command(BaseCommand):
    help = "Make a user, an organization and a management key; prints them as JSON, for scripts."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--email", required=True)
        parser.add_argument("--organization", required=True, help="its name")

    @transaction.atomic
    def handle(self, *, email: str, organization: str, **options: object) -> None:
        user = self._user(email.lower())
        membership = Membership.objects.filter(
            user=user, role="owner", organization__name=organization
        ).first()
        owned = membership.organization if membership else Organization.found(organization, user)
        _, plain = ApiKey.issue(owned, user, "bootstrap", kind=ApiKey.Kind.MANAGEMENT)
        self.stdout.write(
            json.dumps(
                {
                    "email": user.email,
                    "organization": owned.slug,
                    "management_key": plain,
                    "api_url": f"{settings.PUBLIC_URL}/api/v1/",
                    "base_url": f"{settings.PUBLIC_URL}/v1",
                },
                indent=2,
            )
        )

    def _user(self, email: str) -> User:
        """Whoever has this address, else someone new who signs in by an e-mailed code."""
        known = User.objects.filter(email=email).first()
        if known is not None:
            return known
        user = User.objects.create_user(email)
        EmailAddress.objects.create(user=user, email=email, verified=True, primary=True)
        return user
