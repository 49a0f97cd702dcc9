"""Where schema ids come from. Built in: PostgreSQL's `event_schema`, held in memory and served as Confluent's REST
reads.

`builtin` is the memory, `database` fills it, `http` answers deserializers from it.
"""
