"""Stripe's objects, one file for those that belong together."""

from billing.localstripe.resources import (
    billing,
    cards,
    catalog,
    checkout,
    customers,
    payments,
    refunds,
    webhooks,
)
from billing.localstripe.routing import Routes

routes = Routes()
for part in (customers, catalog, cards, payments, refunds, checkout, billing, webhooks):
    routes.all.extend(part.routes.all)
