from django.urls import path

from portal.ops import (
    approvals,
    credit,
    failures,
    fleet,
    invoices,
    nodes,
    payments,
    prices,
    tenants,
)

urlpatterns = [
    path("", fleet.index, name="ops"),
    path("nodes/<uuid:node_id>/", nodes.show, name="ops-node"),
    path("nodes/<uuid:node_id>/<slug:verb>/", nodes.act, name="ops-node-act"),
    path("tenants/", tenants.index, name="ops-tenants"),
    path("tenants/<uuid:organization_id>/", tenants.show, name="ops-tenant"),
    path("tenants/<uuid:organization_id>/credit/", credit.show, name="ops-credit"),
    path("tenants/<uuid:organization_id>/credit/terms/", credit.terms, name="ops-credit-terms"),
    path("approvals/", approvals.index, name="ops-approvals"),
    path("approvals/<uuid:instance_id>/<slug:verb>/", approvals.decide, name="ops-decide"),
    path("prices/", prices.index, name="ops-prices"),
    path("invoices/", invoices.index, name="ops-invoices"),
    path("invoices/<uuid:invoice_id>/", invoices.show, name="ops-invoice"),
    path("payments/", payments.index, name="ops-payments"),
    path("payments/<uuid:top_up_id>/", payments.refund, name="ops-refund"),
    path("prices/new/", prices.open_book, name="ops-price-book"),
    path("tenants/<uuid:organization_id>/terms/", prices.terms, name="ops-terms"),
    path("failures/", failures.index, name="ops-failures"),
    path("failures/<uuid:replica_id>/", failures.show, name="ops-failure"),
]
