"""The admin client of the commands: who destroys it, and when."""

from __future__ import annotations

import gc

from dovetail_relay.config import load
from dovetail_relay.setup.topics import Cluster


def test_the_admin_client_is_destroyed_by_whoever_used_it_last_and_not_by_the_garbage_collector() -> None:
    # librdkafka aborts the process where one of its own threads runs the collector that finds the client.
    settings = load(None, {"DOVETAIL_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1"}, needs=())
    gc.collect()
    gc.disable()
    try:
        Cluster(settings)
        assert not [found for found in gc.get_objects() if isinstance(found, Cluster)]
    finally:
        gc.enable()
