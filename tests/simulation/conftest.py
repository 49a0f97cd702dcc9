"""How many seeds, and which one to tell at length."""

import logging
from collections.abc import Iterator

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--seeds", type=int, default=6_000, help="how many seeds the simulation runs; 100000 take a minute and a half"
    )
    parser.addoption("--seed", type=int, default=None, help="replay one seed and tell its story")


@pytest.fixture
def seeds(request: pytest.FixtureRequest) -> range:
    # pytest asks a folder's conftest for options only where the folder is named on the command line.
    one = request.config.getoption("--seed", default=None)
    if isinstance(one, int):
        return range(one, one + 1)
    many = request.config.getoption("--seeds", default=6_000)
    return range(many if isinstance(many, int) else 6_000)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """The relay's rooms say what they do; a hundred thousand relays would be heard."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)
