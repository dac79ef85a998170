"""Records of consumption for tests, as a gateway would write them."""

import time
from uuid import UUID, uuid4

from accounts.models import Organization
from billing.usage_record import Admit, Final, Outcome, Usage, UsageSource
from portal.lib.ids import uuid7


def admit(organization: Organization, *, model: str = "demo", key: UUID | None = None) -> Admit:
    return Admit(
        request_id=uuid7().bytes,
        organization_id=organization.id.bytes,
        key_id=(key or uuid4()).bytes,
        instance_id=uuid4().bytes,
        replica_id=uuid4().bytes,
        model=model,
        endpoint="chat/completions",
        stream=True,
        admitted_at_us=time.time_ns() // 1000,
    )


def final(of: Admit, *, prompt: int = 7, completion: int = 9, cached: int = 0) -> Final:
    return Final(
        request_id=of.request_id,
        usage=Usage(prompt, completion, cached, 0),
        source=UsageSource.ENGINE,
        outcome=Outcome.COMPLETED,
        status=200,
        finish_reason="stop",
        ttft_us=1500,
        duration_us=40_000,
    )
