"""REST: invoices and what stands on them."""

from typing import Any, ClassVar

from django.utils.translation import gettext_lazy as _
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.exceptions import NotFound, ValidationError
from rest_framework.pagination import Cursor, CursorPagination
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.rest import Listed, Retrieved, TenantViewSet
from accounts.roles import Permission
from billing.models import Invoice, InvoiceLine


class InvoiceSerializer(serializers.ModelSerializer[Invoice]):
    """`subtotal`, `tax` and `total` are in the currency's minor units: cents, whole yen. `nano` is
    what the lines came to before each was rounded, in billionths of the currency. A credit note's
    are below 0, and it names the invoice that it corrects. `period_end` is not within the period,
    which is a month in `time_zone`."""

    corrects = serializers.SlugRelatedField[Invoice](slug_field="number", read_only=True)

    class Meta:
        model = Invoice
        exclude: ClassVar = ["organization", "transaction", "decided_by", "created_at"]


class InvoiceLineSerializer(serializers.ModelSerializer[InvoiceLine]):
    """`minor` is `nano` rounded, half to even. Its requests are those of `usage/` with this model,
    key, member and project that were admitted in its period."""

    class Meta:
        model = InvoiceLine
        exclude: ClassVar = ["invoice"]


class LinePagination(CursorPagination):
    """In the order in which they are printed."""

    page_size = 100
    page_size_query_param = "limit"
    max_page_size = 200
    ordering = "position"

    def decode_cursor(self, request: Request) -> Cursor | None:
        """Refuse a cursor that we did not make before the database has to."""
        try:
            cursor = super().decode_cursor(request)
            if cursor is not None and cursor.position is not None:
                int(cursor.position)
        except (NotFound, ValueError) as error:
            raise ValidationError({"cursor": [_("This is not a cursor of this list.")]}) from error
        return cursor


class InvoiceViewSet(Listed, Retrieved, TenantViewSet):
    """Invoices and credit notes. They do not change; an invoice may become void."""

    queryset = Invoice.objects.select_related("corrects")
    serializer_class = InvoiceSerializer
    filterset_fields: ClassVar = ["kind", "status", "currency"]
    may_read = may_write = Permission.MANAGE_BILLING
    lookup_field = "number"
    lookup_value_converter = "slug"

    @extend_schema(responses=InvoiceLineSerializer(many=True), filters=False)
    @action(
        detail=True,
        pagination_class=LinePagination,
        serializer_class=InvoiceLineSerializer,
        filter_backends=[],
    )
    def lines(self, request: Request, **address: Any) -> Response:
        """What stands on it."""
        lines = self.paginate_queryset(self.get_object().lines.all())
        return self.get_paginated_response(self.get_serializer(lines, many=True).data)
