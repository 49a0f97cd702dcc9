"""A row's way to its topic: which topic, which key, which headers. Pure: no clock, no socket, no logger.

`Router` decides per aggregate type and knows the allow-list; `headers` says what a record's headers are; `Mapper` is
the two of them joined with the encoder for the hot path, one call per row.
"""
