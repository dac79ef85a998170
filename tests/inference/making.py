"""What many tests need, made in a line."""

from accounts.models import Organization, User
from inference.models import Instance, Provider


def an_instance(organization: Organization, name: str) -> Instance:
    """An instance that exists in the database and nowhere else."""
    return Instance.objects.create(
        organization=organization, name=name, model_source="bundled", model_id="demo"
    )


def a_provider(organization: Organization, by: User, name: str = "away") -> Provider:
    """A service that nobody calls."""
    return Provider.add(
        organization, by, name=name, base_url=f"https://{name}.example/v1", secret="sk-1"
    )
