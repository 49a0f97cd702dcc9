"""Bringing PostgreSQL and Kafka into the state that the relay needs, and looking whether they are in it.

`install` is behind `dovetail init`, `checks` behind `dovetail doctor`, `script` behind `init --print-sql` and
`--print-kafka`. The relay itself never creates anything: it runs with fewer rights than this room needs.
"""
