"""What many tests need, made in a line."""

from datetime import timedelta

from django.utils import timezone

from accounts.models import Organization, User
from inference import demo
from inference.models import Instance, Provider
from inference.reconciler import Reconciler


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


def a_wish(organization: Organization, by: User, **changes: object) -> Instance:
    """An instance of the bundled model, just asked for."""
    wanted: dict[str, object] = {
        "name": "demo",
        "model_source": "bundled",
        "model_id": demo.MODEL_ID,
        "model_revision": demo.model_revision(),
    }
    return Instance.request(organization, by, **(wanted | changes))  # type: ignore[arg-type]


def rounds(reconciler: Reconciler, instance: Instance, count: int = 16) -> Instance:
    """As many looks as it takes, with no waiting for backoff in between."""
    past = timezone.now() - timedelta(seconds=1)
    for _ in range(count):
        Instance.objects.filter(retry_at__isnull=False).update(retry_at=past)
        reconciler.round()
    instance.refresh_from_db()
    return instance
