"""Budgets: what is spent of them, who is told, how often, and what stops."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4
from zoneinfo import ZoneInfo

import pytest
from django.core import mail
from django.core.exceptions import ValidationError
from django.test import Client
from django.utils import timezone
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase

from accounts.models import ApiKey, Membership, Organization, Project, User
from accounts.roles import Role
from billing import budgets, periods, tasks, usage, wallet
from billing.ledger import Kind
from billing.models import Budget, BudgetAlert, UsageEvent
from billing.money import NANO
from tests.billing.pricing import a_price
from tests.billing.records import admit, final
from tests.cast import person, signed_in

READERS = frozenset({Role.OWNER, Role.ADMIN, Role.BILLING})
MANAGERS = frozenset({Role.OWNER, Role.BILLING})
TAIPEI = ZoneInfo("Asia/Taipei")


def used(acme: Organization, nano: int) -> None:
    wallet.charge(acme, nano, Kind.USAGE, str(uuid4()))


def called(acme: Organization, key: ApiKey, tokens: int = 1_000) -> int:
    """A finished request by this key; what it has cost, in nano-units."""
    request = admit(acme, key=key.id)
    request.price_version = a_price().id.bytes
    usage.ingest([(request, final(request, prompt=tokens, completion=0))])
    return UsageEvent.objects.get(request_id=request.request_id.hex()).cost_nano


def look(budget: Budget, now: datetime | None = None) -> list[int]:
    """The levels that are told of."""
    told: list[int] = []
    fresh = Budget.objects.get(id=budget.id)
    budgets.look_at(fresh, lambda alert: told.append(alert.level), now)
    return told


@pytest.fixture
def budget(acme: Organization, alice: User) -> Budget:
    return budgets.set_budget(acme, alice, nano=100)


@pytest.mark.parametrize(
    ("kind", "first", "now", "start", "end"),
    [
        ("month", 1, "2026-02-28T15:59", "2026-02-01", "2026-03-01"),
        ("month", 1, "2026-02-28T16:00", "2026-03-01", "2026-04-01"),  # midnight in Taipei
        ("month", 1, "2026-12-31T16:00", "2027-01-01", "2027-02-01"),
        ("fiscal_year", 8, "2026-07-31T15:59", "2025-08-01", "2026-08-01"),
        ("fiscal_year", 8, "2026-07-31T16:00", "2026-08-01", "2027-08-01"),
        ("fiscal_year", 1, "2026-06-01T00:00", "2026-01-01", "2027-01-01"),
    ],
)
def test_periods_begin_at_local_midnight(
    kind: str, first: int, now: str, start: str, end: str
) -> None:
    moment = datetime.fromisoformat(now).replace(tzinfo=UTC)
    began, ends = periods.bounds(kind, moment, TAIPEI, first)
    assert (began.isoformat()[:10], ends.isoformat()[:10]) == (start, end)
    assert began <= moment < ends


def test_each_level_is_told_once_in_a_period(acme: Organization, budget: Budget) -> None:
    used(acme, 49)
    assert look(budget) == []
    used(acme, 1)
    assert look(budget) == [50]
    assert look(budget) == []
    used(acme, 49)
    assert look(budget) == [90]  # 75 was passed on the way: it is not told on top
    assert sorted(BudgetAlert.objects.values_list("level", flat=True)) == [50, 75, 90]
    used(acme, 500)
    assert look(budget) == [100]
    _start, end = periods.bounds("month", timezone.now(), UTC)
    assert look(budget, end + timedelta(days=1)) == []  # nothing is spent of the next month


def test_only_chosen_levels_are_told(acme: Organization, alice: User, budget: Budget) -> None:
    budgets.set_budget(acme, alice, budget, levels=[75])
    used(acme, 60)
    assert look(budget) == []
    used(acme, 60)
    assert look(budget) == [75]


def test_a_hard_stop_lasts_until_the_period_ends_or_it_is_raised(
    acme: Organization, alice: User, budget: Budget
) -> None:
    used(acme, 100)
    look(budget)
    budget.refresh_from_db()
    assert budget.stopped_until is None  # it only tells
    budgets.set_budget(acme, alice, budget, hard_stop=True)
    _start, end = periods.bounds("month", timezone.now(), UTC)
    assert Budget.objects.get().stopped_until == end
    budgets.set_budget(acme, alice, budget, nano=101)
    assert Budget.objects.get().stopped_until is None
    used(acme, 1)
    look(budget)
    assert Budget.objects.get().stopped_until == end
    look(budget, end)  # the next month has begun
    assert Budget.objects.get().stopped_until is None


def test_a_project_a_member_and_a_key_count_their_own(
    acme: Organization, alice: User, bob: User
) -> None:
    course = Project.begin(acme, alice, "Course")
    theirs, _ = ApiKey.issue(acme, bob, "bob's", project=course)
    other, _ = ApiKey.issue(acme, alice, "alice's")
    cost = called(acme, theirs)
    called(acme, other, 5_000)
    assert cost > 0
    subjects = (
        {"project": course},
        {"membership": acme.memberships.get(user=bob)},
        {"api_key": theirs},
    )
    for subject in subjects:
        made = budgets.set_budget(acme, alice, nano=NANO, **subject)
        assert budgets.standing(made).spent == cost
    whole = budgets.set_budget(acme, alice, nano=NANO)
    assert budgets.standing(whole).spent > cost


def test_a_new_key_brings_no_new_budget(acme: Organization, alice: User) -> None:
    course = Project.begin(acme, alice, "Course")
    key, _ = ApiKey.issue(acme, alice, "k", project=course)
    made = budgets.set_budget(acme, alice, nano=NANO, api_key=key)
    cost = called(acme, key)
    new, _ = key.rotate(alice)
    cost += called(acme, new)
    assert new.project == course
    made.refresh_from_db()
    assert made.api_key == new
    assert budgets.standing(made).spent == cost


def test_people_are_told_by_mail_once(
    acme: Organization,
    bob: User,
    alice: User,
    django_capture_on_commit_callbacks: object,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent: list[tuple[str, str]] = []
    monkeypatch.setattr(
        tasks.mail_budget_alert, "apply_async", lambda args, countdown: sent.append(args)
    )
    membership = acme.memberships.get(user=bob)
    budget = budgets.set_budget(acme, alice, nano=10, membership=membership)
    key, _ = ApiKey.issue(acme, bob, "k")
    called(acme, key)
    tasks.watch_budgets()
    tasks.watch_budgets()
    assert sorted(email for _, email in sent) == [alice.email, bob.email]
    for args in sent:
        tasks.mail_budget_alert(*args)
    assert "100 %" in mail.outbox[0].subject
    assert "/o/acme/billing/budgets/" in mail.outbox[0].body
    budget.delete()
    tasks.mail_budget_alert(*sent[0])
    assert len(mail.outbox) == 2


def test_there_is_one_budget_of_a_subject_and_period(acme: Organization, alice: User) -> None:
    budgets.set_budget(acme, alice, nano=1)
    budgets.set_budget(acme, alice, nano=1, period="fiscal_year")
    with pytest.raises(ValidationError):
        budgets.set_budget(acme, alice, nano=1)


def test_no_budget_for_a_strangers_member(
    acme: Organization, alice: User, umbrella: Organization
) -> None:
    with pytest.raises(ValidationError):
        budgets.set_budget(acme, alice, nano=1, membership=umbrella.memberships.get())


class Rows(TestCase):
    @settings(max_examples=25, deadline=None)
    @given(
        st.lists(
            st.tuples(st.integers(0, 60), st.sampled_from([0, 1, 40]), st.integers(1, 150)),
            max_size=8,
        )
    )
    def test_rows_are_of_what_was_reached_and_no_level_is_told_twice(
        self, steps: list[tuple[int, int, int]]
    ) -> None:
        """Spending, days that pass and budgets that change, in any order."""
        alice = person(f"{uuid4()}@acme.example")
        acme = Organization.found("Acme", alice)
        budget = budgets.set_budget(acme, alice, nano=100)
        now = timezone.now()
        told: list[tuple[datetime, int]] = []
        for spend, days, nano in steps:
            if spend:
                used(acme, spend)
            now += timedelta(days=days)
            budgets.set_budget(acme, alice, budget, nano=nano)
            budgets.look_at(budget, lambda a: told.append((a.period_start, a.level)), now)
            found = budgets.standing(budget, now)
            rows = BudgetAlert.objects.filter(budget=budget, period_start=found.start)
            reached = {level for level in budget.levels if found.spent * 100 >= nano * level}
            assert reached <= set(rows.values_list("level", flat=True))
            for row in BudgetAlert.objects.filter(budget=budget):
                assert row.spent_nano * 100 >= row.budget_nano * row.level
        assert len(told) == len(set(told)) <= BudgetAlert.objects.filter(budget=budget).count()


NEW = {"subject": "organization", "amount": "25", "period": "month"}
PAGES = [
    ("budgets/", "get", READERS),
    ("budgets/new/", "get", MANAGERS),
    ("budgets/new/", "post", MANAGERS),
    ("budgets/{budget}/", "get", MANAGERS),
    ("budgets/{budget}/", "post", MANAGERS),
    ("budgets/{budget}/remove/", "get", MANAGERS),
    ("budgets/{budget}/remove/", "post", MANAGERS),
]


@pytest.mark.parametrize(("path", "method", "passes"), PAGES)
@pytest.mark.parametrize("role", list(Role))
def test_members_by_role(
    acme: Organization, budget: Budget, role: Role, path: str, method: str, passes: frozenset[Role]
) -> None:
    who = person("somebody@acme.example")
    Membership.objects.create(organization=acme, user=who, role=role)
    where = f"/o/acme/billing/{path}".format(budget=budget.id)
    answer = getattr(signed_in(who), method)(where, NEW if method == "post" else None)
    assert answer.status_code in ({200, 302, 422} if role in passes else {403})


@pytest.mark.parametrize(("path", "method", "_passes"), PAGES)
def test_strangers_find_nothing(
    budget: Budget, charlie_client: Client, path: str, method: str, _passes: object
) -> None:
    where = f"/o/acme/billing/{path}".format(budget=budget.id)
    assert getattr(charlie_client, method)(where).status_code == 404
    if "{budget}" in path:
        assert charlie_client.get(where.replace("acme", "umbrella")).status_code == 404


def test_a_budget_is_made_changed_and_removed_on_its_pages(
    acme: Organization, alice: User, alice_client: Client
) -> None:
    course = Project.begin(acme, alice, "Course")
    sent = NEW | {"subject": f"project:{course.id}", "levels": ["90", "100"], "hard_stop": "on"}
    assert alice_client.post("/o/acme/billing/budgets/new/", sent).status_code == 302
    made = Budget.objects.get()
    assert (made.project, made.nano, made.levels, made.hard_stop) == (
        course,
        25 * NANO,
        [90, 100],
        True,
    )
    assert "Project: Course" in alice_client.get("/o/acme/billing/budgets/").content.decode()
    where = f"/o/acme/billing/budgets/{made.id}/"
    assert 'value="25.00"' in alice_client.get(where).content.decode()
    year = {"amount": "9.50", "period": "fiscal_year", "first_month": "8"}
    assert alice_client.post(where, year).status_code == 302
    made.refresh_from_db()
    assert (made.project, made.nano, made.first_month) == (course, 9_500_000_000, 8)
    assert (made.levels, made.hard_stop) == ([], False)
    alice_client.post(f"{where}remove/")
    assert not Budget.objects.exists()


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"amount": "0"}, "amount"),
        ({"amount": "much"}, "amount"),
        ({"subject": "key:x"}, "subject"),
        ({"levels": ["33"]}, "levels"),
        ({"period": "week"}, "period"),
        ({"first_month": "13"}, "first_month"),
    ],
)
def test_what_is_wrong_is_said_beside_its_field(
    alice_client: Client, wrong: dict[str, object], field: str
) -> None:
    answer = alice_client.post("/o/acme/billing/budgets/new/", NEW | wrong)
    assert answer.status_code == 422
    assert set(answer.context["form"].errors) == {field}
