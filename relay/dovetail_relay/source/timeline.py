"""Which server, which timeline, and where earlier timelines ended: asked over the replication connection."""

from __future__ import annotations

import psycopg

from dovetail_relay.nouns import TimelineSwitch, parse_lsn
from dovetail_relay.source.replication import server_error


def identify(connection: psycopg.Connection) -> tuple[str, int]:
    """System id and timeline of the server behind a replication connection."""
    try:
        row = connection.execute("IDENTIFY_SYSTEM").fetchone()
    except psycopg.Error as error:
        raise server_error(error, "IDENTIFY_SYSTEM") from error
    assert row is not None  # noqa: S101 - the command always answers with one row
    return str(row[0]), int(row[1])


def history(connection: psycopg.Connection, timeline: int) -> tuple[TimelineSwitch, ...]:
    """Where each ancestor of `timeline` ended, from the server's timeline history; () on the first timeline."""
    if timeline <= 1:
        return ()
    try:
        row = connection.execute(f"TIMELINE_HISTORY {timeline:d}".encode()).fetchone()
    except psycopg.Error as error:
        raise server_error(error, f"TIMELINE_HISTORY {timeline}") from error
    assert row is not None  # noqa: S101 - the command always answers with one row
    content = row[1].decode() if isinstance(row[1], bytes) else str(row[1])
    return parse_history(content)


def parse_history(content: str) -> tuple[TimelineSwitch, ...]:
    """The lines of a history file: `<timeline> <switch LSN> <reason>`; comments and blank lines are passed over."""
    switches = []
    for line in content.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0].isdigit():
            switches.append(TimelineSwitch(int(words[0]), parse_lsn(words[1])))
    return tuple(switches)
