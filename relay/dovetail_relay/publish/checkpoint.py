"""The checkpoint as bytes, and how it is read back.

It lives in a compacted topic of the relay's own with one partition. In a shared partition a neighbour's open
transaction hides the newest committed checkpoint, and "read to the end" would return an old one. Even so it is read up
to the high watermark, taken `read_uncommitted` after the fencing, since a `read_committed` reader's own end is the last
stable offset.
"""

from __future__ import annotations

import json
import threading
import time
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from dovetail_relay import books
from dovetail_relay.errors import CheckpointLost, KafkaUnavailable
from dovetail_relay.nouns import Checkpoint, CommandStep, Lsn, Part, lsn_text, parse_lsn
from dovetail_relay.publish.refusals import bad_property

VERSION: Final = 1
# The newest checkpoint is nearly always among the last two records; compaction leaves few.
_TAIL: Final = 200


_LEADER_PAUSE_SECONDS: Final = 0.05
_MOVING: Final = frozenset((KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE))


class _LeaderMoves(KafkaUnavailable):
    """The partition has no leader just now."""


def encode(checkpoint: Checkpoint) -> bytes:
    """One JSON object; LSNs as PostgreSQL prints them, so that a person can read it."""
    part = checkpoint.part
    head = json.dumps(
        {
            "version": VERSION,
            "epoch": checkpoint.epoch,
            "seq": checkpoint.seq,
            "writer": checkpoint.writer,
            "system_id": checkpoint.system_id,
            "timeline": checkpoint.timeline,
            "database": checkpoint.database,
            "slot": checkpoint.slot,
            "end_lsn": lsn_text(checkpoint.end_lsn),
            "part": None if part is None else {"commit_lsn": lsn_text(part.commit_lsn), "next_index": part.next_index},
            "backfill": checkpoint.backfill,
            "horizon": checkpoint.horizon,
            "parked_lsn": lsn_text(checkpoint.parked_lsn),
            "command": None if checkpoint.command is None else checkpoint.command._asdict(),
            "audit": checkpoint.audit,
        },
        separators=(",", ":"),
    )
    # The books are the long part of it, and hardly change from one to the next: they bring their text with them.
    return f'{head[:-1]},"books":{books.text(checkpoint.books)}}}'.encode()


def decode(data: bytes) -> Checkpoint:
    """The inverse; raises CheckpointLost for anything that is no checkpoint of ours."""
    try:
        found: dict[str, Any] = json.loads(data)
        version = found["version"]
        if version != VERSION:
            raise CheckpointLost(f"the checkpoint has version {version!r}; this relay reads {VERSION}")
        part, command, audit = found["part"], found["command"], found["audit"]
        return Checkpoint(
            epoch=int(found["epoch"]),
            seq=int(found["seq"]),
            writer=str(found["writer"]),
            system_id=str(found["system_id"]),
            timeline=int(found["timeline"]),
            database=str(found["database"]),
            slot=str(found["slot"]),
            end_lsn=parse_lsn(found["end_lsn"]),
            part=None if part is None else Part(parse_lsn(part["commit_lsn"]), int(part["next_index"])),
            backfill=None if found["backfill"] is None else int(found["backfill"]),
            horizon=int(found["horizon"]),
            parked_lsn=Lsn(parse_lsn(found["parked_lsn"])),
            command=None if command is None else CommandStep(int(command["id"]), int(command["step"])),
            books=books.parse(found["books"]),
            audit=None if audit is None else (int(audit[0]), str(audit[1])),
        )
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise CheckpointLost(f"the newest record of the checkpoint topic is no checkpoint: {error}") from error


class CheckpointReader:
    """Two consumers without a group: one sees the high watermark, the other only what is committed."""

    def __init__(self, config: dict[str, Any], topic: str, key: bytes) -> None:
        self._topic = topic
        self._key = key
        shared = {
            **config,
            # Required by the client; nothing is ever committed to it.
            "group.id": f"{topic}.reader",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
            # The last offset is a commit marker: the end is seen by a fetch that brings nothing, which must not wait.
            "fetch.wait.max.ms": 1,
            "reconnect.backoff.ms": 50,
            # As for the producers: no waiting before the first connection.
            "enable.sparse.connections": False,
        }
        self._in_use = threading.Lock()
        try:
            self._raw = Consumer({**shared, "isolation.level": "read_uncommitted"})
            self._committed = Consumer({**shared, "isolation.level": "read_committed"})
        except KafkaException as error:
            raise bad_property(error) from error

    def read(self, timeout: float) -> Checkpoint | None:
        """The newest committed checkpoint, None for an empty topic. Raises KafkaUnavailable, CheckpointLost."""
        deadline = time.monotonic() + timeout
        with self._in_use:
            while True:
                try:
                    return self._read(max(0.1, deadline - time.monotonic()))
                except _LeaderMoves:
                    # A topic that was just made, or a broker that has just gone: another one leads in a moment.
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(_LEADER_PAUSE_SECONDS)  # the brokers tell nobody when they have elected one

    def _read(self, timeout: float) -> Checkpoint | None:
        deadline = time.monotonic() + timeout
        try:
            partition = TopicPartition(self._topic, 0)
            # The first question is for the one that will read: it learns the partition's leader now, and not a second
            # after it was assigned.
            self._committed.get_watermark_offsets(partition, timeout=timeout, cached=False)
            low, high = self._raw.get_watermark_offsets(partition, timeout=timeout, cached=False)
            span = _TAIL
            while True:
                start = max(low, high - span)
                found = self._newest(start, high, deadline) if high > start else None
                if found is not None or start <= low:
                    return None if found is None else decode(found)
                span *= 10
        except KafkaException as error:
            code = error.args[0].code()
            # A topic that is not there has, to the client, no partition 0.
            if code in {
                KafkaError.UNKNOWN_TOPIC_OR_PART,
                KafkaError._UNKNOWN_TOPIC,
                KafkaError._UNKNOWN_PARTITION,
            }:
                raise CheckpointLost(
                    f"the checkpoint topic {self._topic} does not exist", remedy="dovetail init"
                ) from error
            kind = _LeaderMoves if code in _MOVING else KafkaUnavailable
            raise kind(f"checkpoint topic {self._topic}: {error.args[0].str()}") from error

    def close(self) -> None:
        """Waits for a read that is under way on another thread."""
        with self._in_use:
            self._raw.close()
            self._committed.close()

    def _newest(self, start: int, high: int, deadline: float) -> bytes | None:
        consumer = self._committed
        consumer.assign([TopicPartition(self._topic, 0, start)])
        newest: bytes | None = None
        at = start
        try:
            while at < high:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise KafkaUnavailable(
                        f"the checkpoint at {self._topic}[0] offset {at} of {high} is held back by an open transaction"
                    )
                # Not `consume`: it waits its whole timeout for a full list.
                message = consumer.poll(min(left, 0.1))
                if message is None:
                    continue
                error = message.error()
                offset = message.offset() or 0
                if error is None:
                    at = offset + 1
                    if message.key() == self._key and message.value() is not None:
                        newest = message.value()
                elif error.code() == KafkaError._PARTITION_EOF:
                    # The end of what is committed, control records included; below `high` something is open.
                    at = max(at, offset)
                else:
                    raise KafkaException(error)
        finally:
            consumer.unassign()
        return newest
