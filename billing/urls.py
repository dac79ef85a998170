from django.urls import path

from billing import topup_views, views
from billing.payments import webhooks

urlpatterns = [
    path("o/<slug:org>/usage/", views.usage, name="usage"),
    path("o/<slug:org>/usage/export/", views.export, name="usage-export"),
    path("o/<slug:org>/billing/top-up/", topup_views.top_up, name="top-up"),
    path("o/<slug:org>/billing/card/", topup_views.card, name="card-save"),
    path("o/<slug:org>/billing/portal/", topup_views.portal, name="payment-portal"),
    path("stripe/webhook/", webhooks.receive, name="stripe-webhook"),
]
