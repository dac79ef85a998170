"""What it costs: prices, the facts of consumption, and the books."""

from billing.models.auto_top_up import AutoTopUp, SavedCard
from billing.models.budget import Budget, BudgetAlert
from billing.models.chain import LedgerDay
from billing.models.gpu_usage import GpuUsage
from billing.models.grant import Grant
from billing.models.invoice import Invoice, InvoiceLine, InvoiceNumbers
from billing.models.lease import CreditLease, RunningHold
from billing.models.ledger import Balance, Entry, LedgerAccount, LedgerTransaction
from billing.models.limit_grant import LimitGrant
from billing.models.limit_slots import LimitSlots
from billing.models.payment_check import PaymentCheck
from billing.models.postpaid import MeterReport, Subscription
from billing.models.price import PriceBook, PriceVersion, Rate
from billing.models.profile import BillingProfile
from billing.models.refund import TakenBack
from billing.models.stripe import Installation, StripeCall, StripeEvent
from billing.models.terms import Allowance, Terms
from billing.models.topup import TopUp
from billing.models.usage import UsageEvent

__all__ = [
    "Allowance",
    "AutoTopUp",
    "Balance",
    "BillingProfile",
    "Budget",
    "BudgetAlert",
    "CreditLease",
    "Entry",
    "GpuUsage",
    "Grant",
    "Installation",
    "Invoice",
    "InvoiceLine",
    "InvoiceNumbers",
    "LedgerAccount",
    "LedgerDay",
    "LedgerTransaction",
    "LimitGrant",
    "LimitSlots",
    "MeterReport",
    "PaymentCheck",
    "PriceBook",
    "PriceVersion",
    "Rate",
    "RunningHold",
    "SavedCard",
    "StripeCall",
    "StripeEvent",
    "Subscription",
    "TakenBack",
    "Terms",
    "TopUp",
    "UsageEvent",
]
