"""The demo itself: its books balance on sound servers, a planted fault makes it fail, and it leaves nothing behind."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import psycopg
import pytest

from dovetail_local.demo import run as play
from dovetail_local.demo.command import report
from dovetail_local.demo.screen import PlainScreen
from dovetail_local.endpoints import KAFKA_VARIABLE, POSTGRES_VARIABLE
from support.installation import processes_in
from support.waiting import wait_until

pytestmark = pytest.mark.timeout(150)

DEMO = [str(Path(sys.executable).with_name("dovetail")), "demo", "--seconds"]
NAMES = [
    "committed", "rolled_back", "published", "effects", "lost", "duplicated", "phantom", "out_of_order", "relay_kills",
]  # fmt: skip


@pytest.fixture
def clean_environment(tmp_path):
    """An environment without addresses, whose temporary files can be told from those of others."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("DOVETAIL_")}
    tmp_path.chmod(0o711)
    return environ | {"TMPDIR": str(tmp_path)}


def _start(arguments, environ, **options):
    return subprocess.Popen([*DEMO, *arguments], env=environ, stderr=subprocess.PIPE, text=True, **options)


def _await_words(process, wanted):
    seen = []
    for line in process.stderr:
        seen.append(line)
        if re.search(wanted, line):
            return
    pytest.fail(f"{wanted!r} was never said: {''.join(seen)}")


def _nothing_is_left(environ):
    wait_until(lambda: not processes_in(environ["TMPDIR"]), 20, "every process of the demo is gone")


def test_the_books_balance_while_relay_and_consumer_are_killed(clean_environment):
    done = subprocess.run(
        [DEMO[0], "--output", "json", *DEMO[1:], "8"],
        env=clean_environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    books = json.loads(done.stdout)
    assert list(books) == NAMES
    assert books["committed"] == books["published"] == books["effects"] > 100
    assert books["rolled_back"] > 0
    assert books["relay_kills"] == 3
    assert not any(books[name] for name in ("lost", "duplicated", "phantom", "out_of_order"))
    assert done.stderr.count("kill -9 relay") == 3
    assert done.stderr.count("kill -9 shipping") == 1
    assert "Traceback" not in done.stderr
    assert not processes_in(clean_environment["TMPDIR"])
    assert not list(Path(clean_environment["TMPDIR"]).iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_early_end_leaves_no_process(clean_environment, number):
    process = _start(["60"], clean_environment, stdout=subprocess.DEVNULL)
    _await_words(process, "killing: committed [1-9]")
    assert (
        len(processes_in(clean_environment["TMPDIR"])) > 6
    )  # three services, the demo, two servers and who watches them
    process.send_signal(number)
    _, words = process.communicate(timeout=40)
    _nothing_is_left(clean_environment)
    wait_until(lambda: not list(Path(clean_environment["TMPDIR"]).iterdir()), 10, "its files are gone as well")
    if number != signal.SIGKILL:
        assert process.returncode == 130
        assert "dovetail demo: interrupted; nothing was left running" in words
        assert "Traceback" not in words


def test_keep_leaves_the_servers_with_everything_in_them_and_says_how_to_reach_and_remove_them(clean_environment):
    done = subprocess.run(
        [*DEMO, "2", "--keep"], env=clean_environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    dovetail = [DEMO[0], "local"]
    said = re.search(r"dovetail local env --dir (\S+?)\)", done.stderr)
    try:
        shown = subprocess.check_output([*dovetail, "env", "--dir", said[1]], env=clean_environment, text=True)
        addresses = dict(re.findall(r"^export (\w+)='(.*)'$", shown, re.MULTILINE))
        with psycopg.connect(addresses["DOVETAIL_POSTGRES__OWNER_DSN"]) as connection:
            (count,) = connection.execute("SELECT count(*) FROM dovetail.outbox").fetchone()
        assert done.stdout.splitlines()[0].split() == ["committed", str(count)]
    finally:
        assert f"dovetail local down --delete --dir {said[1]}" in done.stderr
        subprocess.run([*dovetail, "down", "--delete", "--dir", said[1]], env=clean_environment, check=True)
    _nothing_is_left(clean_environment)
    assert not list(Path(clean_environment["TMPDIR"]).iterdir())


def test_an_interruption_while_the_servers_start_leaves_no_process(clean_environment):
    process = _start(["60"], clean_environment, stdout=subprocess.DEVNULL)
    _await_words(process, "starting kafka and postgres")
    wait_until(lambda: len(processes_in(clean_environment["TMPDIR"])) > 1, 20, "the servers are being started")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=40)
    assert process.returncode == 130
    _nothing_is_left(clean_environment)


def test_on_a_terminal_the_figures_are_drawn_in_place(clean_environment):
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*DEMO, "4"], env=clean_environment | {"TERM": "xterm", "COLUMNS": "100"}, stderr=theirs, stdout=subprocess.PIPE
    )
    os.close(theirs)
    drawn = b""
    try:
        while part := os.read(ours, 65536):
            drawn += part
    except OSError:  # how a terminal says that the other side is gone
        pass
    os.close(ours)
    books = process.stdout.read().decode()
    process.stdout.close()
    assert process.wait(30) == 0, drawn.decode()
    assert re.search(r"shipping service.*effects applied", drawn.decode())
    assert b"\x1b[" in drawn
    assert [line.split()[0] for line in books.splitlines()] == NAMES


@pytest.fixture
def existing_servers(stack, monkeypatch):
    """Servers that are there already, as their operator would name them."""
    endpoints = stack.endpoints()
    for name, value in endpoints.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DOVETAIL_POSTGRES__SUPERUSER_DSN", endpoints.superuser_dsn)
    return endpoints


def _databases_and_slots(endpoints):
    names = "SELECT datname::text FROM pg_database UNION SELECT slot_name::text FROM pg_replication_slots"
    with psycopg.connect(endpoints.superuser_dsn) as connection:
        return {name for (name,) in connection.execute(names)}


def test_a_record_missing_from_the_topic_makes_it_fail_and_existing_servers_are_left_as_they_were(
    existing_servers, capsys, monkeypatch, tmp_path
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = _databases_and_slots(existing_servers)
    books = play.run(4, PlainScreen(), view=lambda records: records[:-1])
    assert (books.lost, books.balanced) == (1, False)
    assert books.published == books.committed - 1
    assert report(books, "json") == 4
    out, err = capsys.readouterr()
    assert json.loads(out)["lost"] == 1
    assert "lost is 1, not 0" in err
    assert _databases_and_slots(existing_servers) == before
    (logs,) = tmp_path.iterdir()
    assert f"the logs are in {logs}" in err
    assert {log.name for log in logs.iterdir()} == {"init.log", "orders.log", "relay.log", "shipping.log"}


def test_without_the_right_to_make_a_database_it_says_so_in_one_line(existing_servers):
    environ = dict(os.environ)
    del environ["DOVETAIL_POSTGRES__SUPERUSER_DSN"]
    environ["DOVETAIL_POSTGRES__OWNER_DSN"] = existing_servers.app_dsn
    done = subprocess.run([*DEMO, "4"], env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"dovetail demo: the role app may not create a database: [^\n]*\n", done.stderr)


@pytest.mark.parametrize("variable", [POSTGRES_VARIABLE, KAFKA_VARIABLE])
def test_a_server_that_does_not_answer_is_named_in_one_line(existing_servers, variable):
    environ = dict(os.environ)
    if variable == POSTGRES_VARIABLE:
        environ["DOVETAIL_POSTGRES__SUPERUSER_DSN"] = "postgresql://nobody@127.0.0.1:1/nothing"
    else:
        environ[variable] = "127.0.0.1:1"
    done = subprocess.run([*DEMO, "4"], env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (3, "")
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("dovetail demo: ")
