"""Everything Dovetail can refuse in a service, in one tree; the contract's own errors are part of it.

    DovetailError
    ├── publishing: nothing was inserted
    │   ├── EventTypeInvalid     (ValueError, TypeError)  the definition of an event type
    │   ├── NotAnEvent           (TypeError)   what was given is not an event
    │   ├── KeyRequired          (ValueError)  no key, so no order
    │   ├── KeyInvalid           (ValueError)
    │   ├── EventIdInvalid       (ValueError)
    │   ├── HeaderInvalid        (ValueError)
    │   ├── PayloadTooLarge      (ValueError)
    │   ├── SchemaMismatch       (ValueError, TypeError)
    │   ├── SchemaInvalid        (ValueError)
    │   ├── SchemaNotRegistered · SchemaIdCollision
    │   ├── OutboxNotInTransaction · ReadOnlyServer · NotInstalled
    │   ├── MessagesNotRead                    mode="wal", and no relay would see the event
    │   ├── EnvelopeInvalid      (ValueError)  mode="wal", and the event is too large for a message
    │   └── DuplicateEventId · TransactionFailed      the transaction can only be rolled back
    ├── receiving: nothing was taken
    │   ├── InboxNotInTransaction
    │   ├── BadMessage           (ValueError)  headers missing or not ours
    │   ├── EventTooOld · EventFromFuture      outside the window in which duplicates are known
    │   ├── DecodeError          (ValueError)
    │   │   └── BadFraming
    │   ├── PositionInvalid · TimeInvalid     (ValueError)  texts of headers
    │   ├── SchemaUnknown                      no such id: no retry will help
    │   └── RegistryUnavailable                a retry may help
    ├── NotConfigured                      nothing was passed, and the environment says nothing
    └── running a consumer
        ├── ExtraMissing         (ImportError)
        ├── HandlerFailed                      the message that stopped the consumer, and why
        └── ConsumerFailed                     Kafka ended it

    SchemaWarning (UserWarning)  an attribute of a schema that has no effect

Messages are one line: what was wrong, what is allowed, what to type next. They never carry a payload.
"""

from dovetail_schemas.errors import (
    BadFraming,
    DecodeError,
    DovetailError,
    EnvelopeInvalid,
    PositionInvalid,
    SchemaInvalid,
    SchemaMismatch,
    SchemaWarning,
    TimeInvalid,
)

__all__ = [
    "BadFraming",
    "BadMessage",
    "ConsumerFailed",
    "DecodeError",
    "DovetailError",
    "DuplicateEventId",
    "EnvelopeInvalid",
    "EventFromFuture",
    "EventIdInvalid",
    "EventTooOld",
    "EventTypeInvalid",
    "ExtraMissing",
    "HandlerFailed",
    "HeaderInvalid",
    "InboxNotInTransaction",
    "KeyInvalid",
    "KeyRequired",
    "MessagesNotRead",
    "NotAnEvent",
    "NotConfigured",
    "NotInstalled",
    "OutboxNotInTransaction",
    "PayloadTooLarge",
    "PositionInvalid",
    "ReadOnlyServer",
    "RegistryUnavailable",
    "SchemaIdCollision",
    "SchemaInvalid",
    "SchemaMismatch",
    "SchemaNotRegistered",
    "SchemaUnknown",
    "SchemaWarning",
    "TimeInvalid",
    "TransactionFailed",
]


class EventTypeInvalid(DovetailError, ValueError, TypeError):
    """An event type is defined in a way that cannot work."""


class NotAnEvent(DovetailError, TypeError):
    """What was given to publish is neither an Event nor an instance of a decorated class."""


class KeyRequired(DovetailError, ValueError):
    """The event has no key, and order is kept per key."""


class KeyInvalid(DovetailError, ValueError):
    """The key is not text, an int or a UUID, or has a length that is not allowed."""


class EventIdInvalid(DovetailError, ValueError):
    """The event id is not a UUID, or is the nil UUID."""


class HeaderInvalid(DovetailError, ValueError):
    """A header is not text, too large, or has a name that belongs to Dovetail."""


class PayloadTooLarge(DovetailError, ValueError):
    """The encoded event would not fit through Kafka."""


class SchemaNotRegistered(DovetailError):
    """The database does not know the event's schema."""


class SchemaIdCollision(DovetailError):
    """Another schema has the same 31-bit id."""


class OutboxNotInTransaction(DovetailError):
    """publish was called on a connection that would commit the event alone."""


class InboxNotInTransaction(DovetailError):
    """receive was called on a connection that would commit the receipt alone."""


class ReadOnlyServer(DovetailError):
    """The server or the transaction takes no writes."""


class NotInstalled(DovetailError):
    """The database lacks Dovetail's tables, or the role the right to use them."""


class MessagesNotRead(DovetailError):
    """No relay of this database reads logical messages: the event would be lost without a word."""


class DuplicateEventId(DovetailError):
    """An event with this id was published before, on the same day."""


class TransactionFailed(DovetailError):
    """An earlier statement failed; the cause is chained."""


class BadMessage(DovetailError, ValueError):
    """A Kafka message without the headers that every Dovetail record has."""


class EventTooOld(DovetailError):
    """The event is older than the inbox remembers: whether it is a duplicate cannot be known."""


class EventFromFuture(DovetailError):
    """The event's time is more than a day ahead of this machine's clock."""


class SchemaUnknown(DovetailError):
    """The registry answers that it has no schema of this id."""


class RegistryUnavailable(DovetailError):
    """The registry did not answer, or answered with an error of its own."""


class NotConfigured(DovetailError):
    """Neither an argument nor a variable of the environment says it."""


class ExtraMissing(DovetailError, ImportError):
    """A package that belongs to an extra is not installed."""


class HandlerFailed(DovetailError):
    """A message failed after all retries; its offset is not committed."""


class ConsumerFailed(DovetailError):
    """The consumer cannot go on."""
