"""Customers and their tax ids."""

from typing import Any

from stripe.params._customer_create_params import CustomerCreateParams
from stripe.params._customer_delete_params import CustomerDeleteParams
from stripe.params._customer_list_params import CustomerListParams
from stripe.params._customer_retrieve_params import CustomerRetrieveParams
from stripe.params._customer_tax_id_create_params import CustomerTaxIdCreateParams
from stripe.params._customer_tax_id_list_params import CustomerTaxIdListParams
from stripe.params._customer_update_params import CustomerUpdateParams

from billing.localstripe.errors import ApiError
from billing.localstripe.routing import Routes, page
from billing.localstripe.world import Object, World

routes = Routes()
routes.readable("customer", "/v1/customers", CustomerRetrieveParams, CustomerListParams)

_TOLD = ("address", "description", "email", "metadata", "name", "phone", "tax_exempt")


@routes("POST", "/v1/customers", CustomerCreateParams)
def create(world: World, p: Object) -> Object:
    fields = {name: p[name] for name in _TOLD if name in p}
    _check_email(fields)
    fields["invoice_settings"] = _settings(world, p.get("invoice_settings", {}))
    customer = world.make(
        "customer", balance=0, delinquent=False, invoice_prefix=world.store.new_id("X", 7), **fields
    )
    for each in p.get("tax_id_data", []):
        _tax_id(world, customer["id"], each)
    world.emit("customer.created", customer)
    return customer


@routes("POST", "/v1/customers/{id}", CustomerUpdateParams)
def update(world: World, p: Object, id: str) -> Object:
    customer = world.need("customer", id)
    fields = {name: p[name] for name in _TOLD if name in p}
    _check_email(fields)
    if "metadata" in fields:
        fields["metadata"] = customer["metadata"] | fields["metadata"]
    if "invoice_settings" in p:
        fields["invoice_settings"] = _settings(world, p["invoice_settings"])
    customer = world.save(customer | fields)
    world.emit("customer.updated", customer)
    return customer


@routes("DELETE", "/v1/customers/{id}", CustomerDeleteParams)
def delete(world: World, p: Object, id: str) -> Object:
    world.emit("customer.deleted", world.need("customer", id))
    world.store.delete(id)
    return {"id": id, "object": "customer", "deleted": True}


@routes("POST", "/v1/customers/{id}/tax_ids", CustomerTaxIdCreateParams)
def create_tax_id(world: World, p: Object, id: str) -> Object:
    world.need("customer", id)
    return _tax_id(world, id, p)


@routes("GET", "/v1/customers/{id}/tax_ids", CustomerTaxIdListParams)
def list_tax_ids(world: World, p: Object, id: str) -> Object:
    return page(world, "tax_id", f"/v1/customers/{id}/tax_ids", p | {"customer": id})


def _tax_id(world: World, customer: str, told: Object) -> Object:
    owner = {"type": "customer", "customer": customer}
    return world.make(
        "tax_id", customer=customer, owner=owner, type=told["type"], value=told["value"]
    )


def _settings(world: World, told: Any) -> Object:
    method = told.get("default_payment_method") or None
    if method:
        world.need("payment_method", method, "invoice_settings[default_payment_method]")
    return {"default_payment_method": method}


def _check_email(fields: Object) -> None:
    email = fields.get("email")
    if email and ("@" not in email or " " in email):
        raise ApiError(f"Invalid email address: {email}", code="email_invalid", param="email")
