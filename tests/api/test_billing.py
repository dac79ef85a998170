"""What the API tells of balance, ledger and budgets."""

from accounts.models import Organization, User
from billing import budgets, wallet
from billing.ledger import Kind
from tests.api.conftest import Api

OWN = "organizations/acme/"


def test_the_balance_and_its_ledger_agree(acme: Organization, alice: User, alice_api: Api) -> None:
    wallet.pay_in(acme, 70, Kind.CREDIT, "paid", description="PO 4711")
    given = wallet.grant(acme, 20, alice, reason="Trial", key="t")
    wallet.charge(acme, 30, Kind.USAGE, "used", refers_to={"requests": 3})
    _, balance = alice_api("get", OWN + "balance/")
    assert (balance["available_nano"], balance["owed_nano"], balance["month_nano"]) == (60, 0, 30)
    assert (balance["currency"], balance["grants"]) == ("USD", [])  # the grant is used up
    assert balance["runway_days"] == 2
    _, ledger = alice_api("get", OWN + "ledger/")
    assert [row["kind"] for row in ledger["results"]] == ["usage", "grant", "credit"]
    entries = [entry for row in ledger["results"] for entry in row["entries"]]
    assert sum(entry["nano"] for entry in entries) == balance["available_nano"]
    assert {entry["account"] for entry in entries} == {"wallet", "grant"}
    assert {entry["grant"] for entry in entries} == {None, str(given.id)}
    _, bought = alice_api("get", OWN + "ledger/?kind=credit")
    assert [row["description"] for row in bought["results"]] == ["PO 4711"]


def test_a_budget_tells_what_is_spent_of_it(
    acme: Organization, alice: User, alice_api: Api
) -> None:
    made = budgets.set_budget(acme, alice, nano=100, hard_stop=True)
    wallet.charge(acme, 30, Kind.USAGE, "used")
    _, budget = alice_api("get", f"{OWN}budgets/{made.id}/")
    assert (budget["nano"], budget["spent_nano"], budget["hard_stop"]) == (100, 30, True)
    assert budget["period_start"] < budget["period_end"]
    _, listed = alice_api("get", OWN + "budgets/")
    assert listed["results"] == [budget]
