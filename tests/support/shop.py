"""The events that the SDK's tests publish."""

from dataclasses import dataclass

import dovetail


@dovetail.event("OrderPlaced", aggregate="order", key="order_id")
@dataclass
class OrderPlaced:
    """An order of a customer."""

    order_id: int
    note: str = "none"


@dovetail.event("OrderShipped", aggregate="order", key="order_id")
@dataclass
class OrderShipped:
    """The parcel is on its way."""

    order_id: int


PLACED = dovetail.EventType.of(OrderPlaced)
