import hashlib
import hmac
from datetime import timedelta
from uuid import UUID

from django.conf import settings
from django.db import connection, models
from django.utils import timezone

from accounts.models.organization import Organization
from portal.lib import crypto
from portal.lib.ids import uuid7

LIFETIME = timedelta(hours=24)
PURPOSE = "idempotent-answer"


class IdempotentAnswer(models.Model):
    """What a creating REST request was answered, so that its repetition is not a second creation.

    Written in the transaction of the creation itself: both are there or neither. The answer may
    hold a new key, so it is encrypted, half of the secret being the Idempotency-Key, which only
    the caller knows: a copy of the database tells nothing.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="+")
    scope = models.BinaryField(max_length=32, unique=True)  # HMAC of caller, method, path, key
    request = models.BinaryField(max_length=32)  # HMAC of the body
    status = models.SmallIntegerField()
    answer = models.BinaryField()
    location = models.CharField(max_length=512, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return str(self.id)

    @classmethod
    def forget_old(cls) -> int:
        """Delete what is past its day; returns how many."""
        return cls.objects.filter(created_at__lt=timezone.now() - LIFETIME).delete()[0]


class Repeatable:
    """One creating request under its Idempotency-Key. Use inside a transaction."""

    def __init__(
        self,
        organization: Organization,
        caller: UUID,
        method: str,
        path: str,
        key: str,
        body: bytes,
    ) -> None:
        self.organization = organization
        self._key = key
        self.scope = _seal(f"{organization.id}\0{caller}\0{method}\0{path}\0{key}".encode())
        self.request = _seal(body)

    def claim(self) -> bool:
        """Become the only one at work on this until the transaction ends; False if another is."""
        lock = int.from_bytes(self.scope[:8], "big", signed=True)
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", [lock])
            return bool(cursor.fetchone()[0])

    def former(self) -> "IdempotentAnswer | None":
        """What was answered within the last day, if anything was."""
        found = IdempotentAnswer.objects.filter(scope=self.scope).first()
        if found is not None and found.created_at < timezone.now() - LIFETIME:
            found.delete()
            return None
        return found

    def same_request(self, former: IdempotentAnswer) -> bool:
        return hmac.compare_digest(bytes(former.request), self.request)

    def read(self, former: IdempotentAnswer) -> str:
        """The body that was answered, as JSON."""
        return crypto.decrypt(bytes(former.answer), key=self._secret(), purpose=PURPOSE)

    def keep(self, status: int, answer: str, location: str = "") -> None:
        """Remember the answer for a day."""
        IdempotentAnswer.objects.create(
            organization=self.organization,
            scope=self.scope,
            request=self.request,
            status=status,
            answer=crypto.encrypt(answer, key=self._secret(), purpose=PURPOSE),
            location=location,
        )

    def _secret(self) -> str:
        return settings.SECRET_KEY + self._key


def _seal(text: bytes) -> bytes:
    return hmac.digest(settings.SECRET_KEY.encode(), text, hashlib.sha256)
