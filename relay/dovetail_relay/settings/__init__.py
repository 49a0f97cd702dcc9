"""The parts of the configuration: value parsers, secrets, the sections, and the rules between them.

`dovetail_relay.config` puts them together; everything else imports from there. Nothing in here opens a connection or
imports more than the standard library and psycopg's conninfo parser, so that the relay process stays light.
"""
