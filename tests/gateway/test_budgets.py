"""What the gateway does where a budget is spent, or an organization is stopped by the operator."""

import openai
from asgiref.sync import sync_to_async

from accounts.models import ApiKey, Organization, Project, User
from billing import budgets, wallet
from billing.ledger import Kind
from billing.models import Budget
from tests.gateway.house import chat
from tests.gateway.test_keys import Wired, wired

__all__ = ["wired"]


async def refusal(wired: Wired, key: str) -> openai.RateLimitError | None:
    async with wired.sdk(key) as client:
        try:
            await client.chat.completions.create(**chat())
        except openai.RateLimitError as error:
            return error
    return None


def limited(wired: Wired) -> bool:
    return any(key.limits for key in wired.runtime.snapshot.keys.values())


async def test_a_spent_budget_stops_at_once_and_a_raised_one_goes_on(
    wired: Wired, acme: Organization, alice: User
) -> None:
    def spend() -> Budget:
        wallet.charge(acme, 100, Kind.USAGE, "used")
        return budgets.set_budget(acme, alice, nano=100, hard_stop=True)

    assert await refusal(wired, wired.key) is None
    budget = await sync_to_async(spend)()
    await wired.until(lambda: limited(wired))
    refused = await refusal(wired, wired.key)
    assert refused is not None
    assert refused.code == "insufficient_quota"
    await sync_to_async(budgets.set_budget)(acme, alice, budget, nano=101)
    await wired.until(lambda: not limited(wired))
    assert await refusal(wired, wired.key) is None


async def test_a_project_s_budget_stops_its_keys_alone(
    wired: Wired, acme: Organization, alice: User
) -> None:
    def spend() -> str:
        course = Project.begin(acme, alice, "Course")
        _key, plain = ApiKey.issue(acme, alice, "course", project=course)
        budget = budgets.set_budget(acme, alice, nano=1, project=course)
        end = budgets.standing(budget).end
        Budget.objects.filter(id=budget.id).update(stopped_until=end)
        return plain

    plain = await sync_to_async(spend)()
    await wired.until(
        lambda: any(
            limit.scope == "project"
            for key in wired.runtime.snapshot.keys.values()
            for limit in key.limits
        )
    )
    refused = await refusal(wired, plain)
    assert refused is not None
    assert "spending limit of this project" in refused.message
    assert await refusal(wired, wired.key) is None


async def test_an_organization_is_stopped_by_the_operator_and_goes_on(
    wired: Wired, acme: Organization
) -> None:
    profile = await sync_to_async(wallet.profile_of)(acme)
    assert await refusal(wired, wired.key) is None
    await sync_to_async(profile.block)()
    await wired.until(lambda: limited(wired))
    assert await refusal(wired, wired.key) is not None
    await sync_to_async(profile.unblock)()
    await wired.until(lambda: not limited(wired))
    assert await refusal(wired, wired.key) is None
