"""Other versions, more brokers, and another user."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import confluent_kafka
import psycopg
import pytest
from confluent_kafka.admin import AdminClient

import dovetail_local
from dovetail_local.accounts import Account, server_account
from dovetail_local.stack import Stack, temporary_folder
from support.waiting import wait_until

# A first run downloads about 80 MB.
pytestmark = pytest.mark.timeout(300)

ANOTHER_USER = """
import sys
from pathlib import Path
from dovetail_local.stack import Stack
with Stack.attached(Path(sys.argv[1]), durable=False, parts=frozenset({"postgres"})) as endpoints:
    print(endpoints.owner_dsn.partition(":")[0])
"""


def test_the_stack_runs_the_versions_that_were_asked_for(stack: Stack, pytestconfig: pytest.Config) -> None:
    endpoints = stack.endpoints()
    with psycopg.connect(endpoints.owner_dsn) as connection:
        assert str(connection.info.server_version // 10_000) == pytestconfig.getoption("--postgres-version")
    brokers = AdminClient({"bootstrap.servers": endpoints.bootstrap_servers}).list_topics(timeout=10).brokers
    assert len(brokers) == pytestconfig.getoption("--brokers")
    said = (stack.layout.directory / "logs/kafka-1.log").read_text()
    assert f"Kafka version: {pytestconfig.getoption('--kafka-version')}" in said


def test_three_brokers_keep_three_copies_and_one_may_go() -> None:
    stack = Stack(temporary_folder(), brokers=3, durable=False, temporary=True, parts=frozenset({"kafka"}))
    try:
        endpoints = stack.up(attached=True)
        client = AdminClient({"bootstrap.servers": endpoints.bootstrap_servers, "log_level": 0})
        for future in client.create_topics([confluent_kafka.admin.NewTopic("copied", 1)]).values():
            future.result(timeout=20)
        # The broker that answers may hear of the topic a moment after the controller has made it.
        wait_until(lambda: "copied" in client.list_topics(timeout=10).topics, 20, "every broker knows the topic")
        partition = client.list_topics(timeout=10).topics["copied"].partitions[0]
        assert sorted(partition.replicas) == [1, 2, 3]
        stack.kill_broker(3)
        producer = confluent_kafka.Producer({"bootstrap.servers": endpoints.bootstrap_servers, "log_level": 0})
        outcomes: list[object] = []
        producer.produce("copied", b"value", on_delivery=lambda error, _: outcomes.append(error))
        assert producer.flush(30) == 0
        assert outcomes == [None]
        stack.start_broker(3)
    finally:
        stack.down()


@pytest.mark.skipif(os.geteuid() != 0, reason="every other test here runs as an ordinary user then")
def test_an_ordinary_user_runs_a_stack_as_well_as_root(tmp_path: Path) -> None:
    account = server_account(tmp_path / "none")
    assert account is not None
    python = _python_for(account)
    if python is None:
        pytest.skip("no Python of this version that an ordinary user may run")
    home = temporary_folder()
    shutil.chown(home, account.uid, account.gid)
    paths = [str(Path(dovetail_local.__file__).parent.parent), sysconfig.get_path("purelib")]
    try:
        done = subprocess.run(
            [python, "-c", ANOTHER_USER, str(home / "stack")],
            user=account.uid,
            group=account.gid,
            extra_groups=[],
            cwd="/",
            env={"HOME": str(home), "PATH": os.defpath, "PYTHONPATH": os.pathsep.join(paths)},
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        shutil.rmtree(home)
    assert (done.returncode, done.stdout, done.stderr) == (0, "postgresql\n", "")


def _python_for(account: Account) -> str | None:
    """Find a Python of the same version that `account` may run: this one may lie below a private home."""
    if not account.can_pass(Path(dovetail_local.__file__).parent):
        return None
    for candidate in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"):
        found = Path(candidate).resolve()
        if found.exists() and account.can_pass(found.parent):
            return candidate
    return None
