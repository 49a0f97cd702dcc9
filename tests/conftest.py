"""Fixtures and options that every tier above `unit` shares."""

import pytest
from hypothesis import settings

from support.servers import database, stack

__all__ = ["database", "stack"]

# Some files name it as a plugin and some import it: whoever comes first, it is rewritten.
pytest.register_assert_rewrite("support.outbox_database")

# What a machine is busy with besides says nothing about the code under test.
settings.register_profile("dovetail", deadline=None)
settings.load_profile("dovetail")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--postgres-version", default="18", help="which PostgreSQL the stack runs: 15, 16, 17, 18")
    parser.addoption("--kafka-version", default="4.1.1", help="which Apache Kafka the stack runs, e.g. 3.9.1")
    parser.addoption("--brokers", type=int, default=1, help="how many brokers the stack runs: 1 or 3")
    parser.addoption(
        "--fault-seed", type=int, default=360, help="which mix of faults; the same again for the same seed"
    )
    parser.addoption("--fault-seconds", type=float, default=20.0, help="how long the mix of faults goes on")
    parser.addoption("--kills", type=int, default=100, help="how often the test of random kills kills the relay")
