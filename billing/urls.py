from django.urls import include, path

from billing import budget_pages, views, wallet_pages

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
    path("o/<slug:org>/usage/", views.usage, name="usage"),
    path("o/<slug:org>/usage/export/", views.export, name="usage-export"),
    path("o/<slug:org>/billing/", include(billing)),
]
