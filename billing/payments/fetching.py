"""Objects of Stripe's, fetched anew, and whose they are."""

from collections.abc import Callable
from typing import Any, TypeVar

from django.conf import settings
from stripe import InvalidRequestError, StripeClient, StripeError

from billing.models import Installation
from billing.payments.client import Away, client

T = TypeVar("T")


class NotOurs(Exception):
    """Somebody else's object in the same account, or one that is not there."""


class NotKnown(Exception):
    """It carries our mark, but the row that it belongs to is not there yet: look again later."""


class Mismatch(Exception):
    """It is not what we asked for: nothing is credited, and a person has to look."""


def fetch(get: Callable[[StripeClient], T]) -> T:
    """Raises Away, NotOurs, NotSetUp."""
    try:
        return get(client())
    except InvalidRequestError as error:
        raise NotOurs(error.code) from error
    except StripeError as error:
        raise Away from error


def value_of(found: Any, name: str) -> Any:
    """Of an object of Stripe's, which is no dict; None where it has no such field."""
    return found[name] if found is not None and name in found else None


def metadata_of(found: Any) -> dict[str, str]:
    metadata = value_of(found, "metadata")
    return dict(metadata.to_dict()) if metadata else {}


def is_ours(found: Any) -> bool:
    """Whether it carries this installation's mark."""
    return metadata_of(found).get("modelport") == Installation.mark()


def our_id(found: Any, name: str) -> str:
    """What our metadata on it names. Raises NotOurs."""
    metadata = metadata_of(found)
    if metadata.get("modelport") != Installation.mark() or name not in metadata:
        raise NotOurs
    return metadata[name]


def check_mode(found: Any) -> None:
    """Play money never counts where money moves, nor the other way. Raises Mismatch."""
    if bool(found.livemode) != settings.ENV.stripe_is_live:
        raise Mismatch("livemode")


def id_of(reference: Any) -> str:
    """Of what is an id, or the expanded object itself, or nothing."""
    if reference is None:
        return ""
    return reference if isinstance(reference, str) else str(reference.id)
