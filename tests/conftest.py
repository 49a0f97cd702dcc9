"""Fixtures and options that every tier above `unit` shares."""

import pytest
from support.servers import database, stack

__all__ = ["database", "stack"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=100, help="how often the test of random kills kills the relay")
