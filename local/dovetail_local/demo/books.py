"""The books: what the database says was committed, against what a reader finds in Kafka and what shipping did.

Pure. The database's side is the business rows, not Dovetail's table: a row of `shop.orders` stands for a transaction
that committed, whatever anything else says.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import NamedTuple


class Order(NamedTuple):
    """The content of one event, as the database and as Kafka have it."""

    customer: str
    number: int
    product: str


class Record(NamedTuple):
    """One record of the topic, in the order in which it was read."""

    event_id: str
    key: str
    partition: int
    order: Order


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything that the books are made of."""

    # Event id -> what its transaction committed.
    committed: Mapping[str, Order]
    # Ids of events that were written and whose transaction, or savepoint, was rolled back.
    rolled_back: Collection[str]
    # The topic from its beginning to its end, each partition in its order.
    records: Sequence[Record]
    # Product -> by how much its stock went down.
    gone: Mapping[str, int]
    relay_kills: int = 0


@dataclass(frozen=True, slots=True)
class Books:
    """Counts of events, and whether they balance. `complaints` is empty exactly when they do."""

    # events of committed transactions
    committed: int
    # events written and then undone, by ROLLBACK or by ROLLBACK TO SAVEPOINT
    rolled_back: int
    # distinct event ids in the topic
    published: int
    # by how much the stock went down, all products together
    effects: int
    # committed, and not in the topic with the content that was committed
    lost: int
    # records beyond the first of an id
    duplicated: int
    # ids in the topic that never committed, were rolled back, or carry another content
    phantom: int
    # records behind one of the same customer that was committed later, and customers spread over partitions
    out_of_order: int
    relay_kills: int
    complaints: tuple[str, ...] = field(default=())

    @property
    def balanced(self) -> bool:
        """True when every committed event is in the topic once, in order, and had its effect once; and nothing else."""
        return not self.complaints

    def counts(self) -> dict[str, int]:
        """The nine numbers by name."""
        counts = asdict(self)
        del counts["complaints"]
        return counts


def balance(evidence: Evidence) -> Books:
    """Compare."""
    committed = evidence.committed
    contents = {record.event_id: record.order for record in evidence.records}
    undone = set(evidence.rolled_back)
    books = Books(
        committed=len(committed),
        rolled_back=len(undone),
        published=len(contents),
        effects=sum(evidence.gone.values()),
        lost=sum(contents.get(event_id) != order for event_id, order in committed.items()),
        duplicated=len(evidence.records) - len(contents),
        phantom=sum(committed.get(event_id) != order or event_id in undone for event_id, order in contents.items()),
        out_of_order=count_out_of_order(evidence.records),
        relay_kills=evidence.relay_kills,
    )
    return Books(**books.counts(), complaints=(*_complaints(books), *_stock_complaints(evidence)))


def count_out_of_order(records: Sequence[Record]) -> int:
    """Count the records whose number is below one already read for their key, repetitions of an id left out."""
    highest: dict[str, int] = {}
    home: dict[str, int] = {}
    seen: set[str] = set()
    strays = 0
    for record in records:
        if record.event_id in seen:
            continue
        seen.add(record.event_id)
        at_home = home.setdefault(record.key, record.partition) == record.partition
        in_turn = record.order.number > highest.get(record.key, 0)
        strays += not (at_home and in_turn and record.key == record.order.customer)
        highest[record.key] = max(highest.get(record.key, 0), record.order.number)
    return strays


def _complaints(books: Books) -> list[str]:
    found = [
        f"{name} is {count}, not 0"
        for name, count in books.counts().items()
        if name in {"lost", "duplicated", "phantom", "out_of_order"} and count
    ]
    for name, count in (("published", books.published), ("effects", books.effects)):
        if count != books.committed:
            found.append(f"{name} is {count}, committed is {books.committed}")
    return found


def _stock_complaints(evidence: Evidence) -> list[str]:
    """By product, so that one effect too many and one too few do not cancel out."""
    ordered = Counter(order.product for order in evidence.committed.values())
    return [
        f"the stock of {product} went down by {evidence.gone.get(product, 0)}, {ordered[product]} were ordered"
        for product in sorted({*ordered, *evidence.gone})
        if evidence.gone.get(product, 0) != ordered[product]
    ]
