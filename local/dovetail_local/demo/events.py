"""What the order service says and the shipping service hears."""

from dataclasses import dataclass

import dovetail


@dovetail.event("OrderPlaced", aggregate="order", key="customer")
@dataclass
class OrderPlaced:
    """The `number`-th order of a customer: within one customer the numbers are 1, 2, 3 … in the order of COMMIT."""

    customer: str
    number: int
    product: str
