"""The contract between the SDK and the relay, owned by neither.

SQL migrations and named queries (`sql`), the Avro rules both sides must apply identically (`avro`), the order of
records (`position`) and the names of their headers (`headers`). Pure: no socket, no clock, no database driver.
"""
