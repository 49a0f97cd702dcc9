"""The root of every error a user of Dovetail can meet, and those of the contract itself.

    DovetailError
    ├── SchemaInvalid      (ValueError)  a schema we will not work with
    ├── SchemaMismatch     (ValueError, TypeError)  a value that does not fit its schema
    ├── DecodeError        (ValueError)  bytes that are not what their schema says
    │   └── BadFraming                   a Kafka value without the five-byte prefix
    ├── PositionInvalid    (ValueError)
    ├── TimeInvalid        (ValueError)
    ├── EnvelopeInvalid    (ValueError)  the content of a logical message that is no event
    └── MigrationsInvalid                a broken set of SQL files: our fault, never the user's

Messages are one line: what was wrong, what is allowed, what to do next. They never carry a payload.
"""


class DovetailError(Exception):
    """Anything Dovetail refuses or cannot do."""


class SchemaInvalid(DovetailError, ValueError):
    """The schema breaks a rule of Avro, or one of ours."""


class SchemaWarning(UserWarning):
    """The schema works, but one of its attributes has no effect."""


class SchemaMismatch(DovetailError, ValueError, TypeError):
    """The value does not fit the schema: wrong type, out of range, a field missing or too many.

    `without_value` says the same with nothing of the value in it.
    """

    def __init__(self, message: str, *, without_value: str | None = None) -> None:
        super().__init__(message)
        self.without_value = message if without_value is None else without_value


class DecodeError(DovetailError, ValueError):
    """The bytes are not a datum of their schema, or exceed the limits for one."""


class BadFraming(DecodeError):
    """The Kafka value does not begin with 0x00 and a four-byte schema id."""


class PositionInvalid(DovetailError, ValueError):
    """The text is not `epoch/commit LSN/index`."""


class TimeInvalid(DovetailError, ValueError):
    """The text is not an RFC 3339 time in UTC with microseconds."""


class EnvelopeInvalid(DovetailError, ValueError):
    """The content of a logical message is not an event's envelope."""


class MigrationsInvalid(DovetailError):
    """The shipped SQL files do not form a set."""
