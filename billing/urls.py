from django.urls import include, path

from billing import (
    budget_pages,
    invoice_pages,
    price_pages,
    topup_views,
    views,
    wallet_pages,
)
from billing.payments import webhooks

billing = [
    path("", wallet_pages.balance, name="billing"),
    path("ledger/", wallet_pages.ledger, name="billing-ledger"),
    path("ledger/export/", wallet_pages.ledger_export, name="billing-ledger-export"),
    path(
        "ledger/<uuid:transaction_id>/",
        wallet_pages.ledger_transaction,
        name="billing-ledger-transaction",
    ),
    path("budgets/", budget_pages.index, name="budgets"),
    path("budgets/new/", budget_pages.create, name="budget-create"),
    path("budgets/<uuid:budget_id>/", budget_pages.change, name="budget"),
    path("budgets/<uuid:budget_id>/remove/", budget_pages.remove, name="budget-remove"),
    path("profile/", wallet_pages.profile, name="billing-profile"),
]
urlpatterns = [
    path("pricing/", price_pages.pricing, name="pricing"),
    path("o/<slug:org>/usage/", views.usage, name="usage"),
    path("o/<slug:org>/usage/export/", views.export, name="usage-export"),
    path("o/<slug:org>/billing/invoices/", invoice_pages.index, name="invoices"),
    path("o/<slug:org>/billing/invoices/<slug:number>/", invoice_pages.show, name="invoice"),
    path(
        "o/<slug:org>/billing/invoices/<slug:number>/lines/<int:position>/",
        invoice_pages.line,
        name="invoice-line",
    ),
    path("o/<slug:org>/billing/invoices/<slug:number>/pdf/", invoice_pages.pdf, name="invoice-pdf"),
    path(
        "o/<slug:org>/billing/invoices/<slug:number>/lines.csv",
        invoice_pages.lines_csv,
        name="invoice-lines-csv",
    ),
    path(
        "o/<slug:org>/billing/invoices/<slug:number>/requests.csv",
        invoice_pages.requests_csv,
        name="invoice-requests-csv",
    ),
    path("o/<slug:org>/billing/top-up/", topup_views.top_up, name="top-up"),
    path("o/<slug:org>/billing/card/", topup_views.card, name="card-save"),
    path("o/<slug:org>/billing/automatic/", topup_views.automatic, name="top-up-automatic"),
    path(
        "o/<slug:org>/billing/card/<slug:card>/<slug:verb>/",
        topup_views.card_change,
        name="card-change",
    ),
    path("o/<slug:org>/billing/portal/", topup_views.portal, name="payment-portal"),
    path("o/<slug:org>/billing/", include(billing)),
    path("stripe/webhook/", webhooks.receive, name="stripe-webhook"),
]
