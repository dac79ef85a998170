"""Keyset pagination: a page is found by where the last one ended, so it costs the same anywhere.

Identifiers are UUIDv7 and grow with time; newest first is `-id`. A list whose key has another name
subclasses this and says so: `ordering = "-request_id"`.
"""

from uuid import UUID

from django.utils.translation import gettext_lazy as _
from rest_framework.exceptions import NotFound, ValidationError
from rest_framework.pagination import Cursor, CursorPagination
from rest_framework.request import Request


class KeysetPagination(CursorPagination):
    """`?cursor=…&limit=…`; answers `{next, previous, results}`, each link a whole address."""

    page_size = 50
    page_size_query_param = "limit"
    max_page_size = 200
    ordering = "-id"

    def decode_cursor(self, request: Request) -> Cursor | None:
        """Refuse a cursor that we did not make before the database has to."""
        try:
            cursor = super().decode_cursor(request)
            if cursor is not None and cursor.position is not None:
                UUID(str(cursor.position))
        except (NotFound, ValueError) as error:
            raise ValidationError({"cursor": [_("This is not a cursor of this list.")]}) from error
        return cursor
