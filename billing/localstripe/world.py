"""The state and what changes it: objects, and the events that tell of them."""

import json
from typing import Any

from stripe._api_version import _ApiVersion
from stripe._object_classes import get_object_class

from billing.localstripe.contract import complete
from billing.localstripe.errors import missing
from billing.localstripe.faults import Faults
from billing.localstripe.store import Store

PREFIXES = {
    "customer": "cus",
    "checkout.session": "cs_test",
    "payment_intent": "pi",
    "charge": "ch",
    "refund": "re",
    "dispute": "du",
    "setup_intent": "seti",
    "payment_method": "pm",
    "balance_transaction": "txn",
    "event": "evt",
    "webhook_endpoint": "we",
    "product": "prod",
    "price": "price",
    "subscription": "sub",
    "subscription_item": "si",
    "invoice": "in",
    "line_item": "il",
    "invoice_payment": "inpay",
    "billing.meter": "mtr_test",
    "billing.meter_event": "mev",
    "billing_portal.session": "bps",
    "tax_id": "txi",
    "item": "li",
}
Object = dict[str, Any]


class World:
    """Stripe's side of things."""

    def __init__(self, store: Store, faults: Faults | None = None) -> None:
        self.store = store
        self.faults = faults or Faults()
        self.base = "http://127.0.0.1"  # where people reach its pages
        self.request: Object = {"id": None, "idempotency_key": None}  # the one at work

    @property
    def now(self) -> int:
        return self.store.now

    def make(self, kind: str, **fields: Any) -> Object:
        """A new object, kept."""
        fields.setdefault("id", self.store.new_id(PREFIXES[kind]))
        if "created" in get_object_class("V1", kind).__annotations__:
            fields.setdefault("created", self.now)
        return self.save(self.complete(kind, fields))

    def complete(self, kind: str, fields: Object) -> Object:
        return complete(kind, fields)

    def save(self, body: Object) -> Object:
        """Keep it as it is now."""
        fields = {name: value for name, value in body.items() if name != "object"}
        return self.store.put(complete(body["object"], fields))

    def need(self, kind: str, id: str, param: str = "id") -> Object:
        """Raises ApiError."""
        if (found := self.store.get(kind, id)) is None:
            raise missing(kind, id, param)
        return found

    def emit(self, type: str, about: Object) -> Object:
        """An event with the object as it is now, on its way to whoever listens."""
        event = self.make(
            "event",
            type=type,
            api_version=_ApiVersion.CURRENT,
            data={"object": about},
            request=self.request,
            pending_webhooks=0,
        )
        for endpoint in self.store.all("webhook_endpoint"):
            wanted = endpoint["enabled_events"]
            if endpoint["status"] == "enabled" and ("*" in wanted or type in wanted):
                for delay in self.faults.delays():
                    self.store.db.execute(
                        "INSERT INTO delivery (event, endpoint, due) VALUES (?, ?, ?)",
                        [event["id"], endpoint["id"], self.store.clock + delay],
                    )
        return event

    def secret_of(self, endpoint_id: str) -> str:
        """What signs this endpoint's webhooks."""
        row = self.store.db.execute(
            "SELECT body FROM object WHERE id = ?", [f"secret:{endpoint_id}"]
        ).fetchone()
        return str(json.loads(row[0])["secret"])

    def keep_secret(self, endpoint_id: str, secret: str) -> None:
        self.store.put({"id": f"secret:{endpoint_id}", "object": "secret", "secret": secret})
