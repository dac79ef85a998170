from django.urls import path

from billing import invoice_pages, price_pages, views

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
]
