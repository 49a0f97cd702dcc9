"""Payload → record value: the Confluent wire frame. Pure: schema ids come in from outside."""
