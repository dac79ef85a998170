"""What it costs: prices, the facts of consumption, and the books."""

from billing.models.budget import Budget, BudgetAlert
from billing.models.chain import LedgerDay
from billing.models.gpu_usage import GpuUsage
from billing.models.grant import Grant
from billing.models.invoice import Invoice, InvoiceLine, InvoiceNumbers
from billing.models.lease import CreditLease, RunningHold
from billing.models.ledger import Balance, Entry, LedgerAccount, LedgerTransaction
from billing.models.limit_grant import LimitGrant
from billing.models.limit_slots import LimitSlots
from billing.models.price import PriceBook, PriceVersion, Rate
from billing.models.profile import BillingProfile
from billing.models.terms import Allowance, Terms
from billing.models.usage import UsageEvent

__all__ = [
    "Allowance",
    "Balance",
    "BillingProfile",
    "Budget",
    "BudgetAlert",
    "CreditLease",
    "Entry",
    "GpuUsage",
    "Grant",
    "Invoice",
    "InvoiceLine",
    "InvoiceNumbers",
    "LedgerAccount",
    "LedgerDay",
    "LedgerTransaction",
    "LimitGrant",
    "LimitSlots",
    "PriceBook",
    "PriceVersion",
    "Rate",
    "RunningHold",
    "Terms",
    "UsageEvent",
]
