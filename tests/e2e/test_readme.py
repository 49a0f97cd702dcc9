"""Everything that README and docs show is run: an example that is not true does not stay for long.

Above each fenced block of `sh`, `python`, `toml` or `sql` stands an HTML comment that says what is done with it:

    <!-- run: shell -->                      run in one bash session with the page's other shell blocks, in order
    <!-- run: shell; prints: some text -->   and this text must come out
    <!-- file: shop.py -->                   written to the working directory first
    <!-- run: make -->                       `make` targets that must exist
    <!-- run: pytest -->                     tests that take long: they must be found, and the options known
    <!-- run: config -->                     a configuration that must load
    <!-- run: sql -->                        run by a superuser in an empty database
    <!-- not run: reason -->
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest

from dovetail_local.endpoints import Endpoints
from dovetail_local.stack import Stack
from dovetail_relay.config import load
from dovetail_relay.setup.checks import examine
from dovetail_relay.setup.install import Plan, install
from support.installation import processes_in
from support.losses import slot_dropped
from support.pages import ROOT, blocks
from support.waiting import wait_until
from support.world import new_world

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\]\((?!\w+:|#)([^)#]+)")


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_each_block_says_what_is_done_with_it(page: Path) -> None:
    for block in blocks(page):
        known = block.mark and re.match(r"(run: (shell|make|pytest|config|sql)\b|file: \S+$|not run: \S+)", block.mark)
        assert known, f"{name(page)}: {block.mark!r} above\n{block.text}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_each_link_leads_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        assert (page.parent / target).exists(), f"{name(page)}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_each_configuration_loads(page: Path, tmp_path: Path) -> None:
    for block in blocks(page):
        if block.mark == "run: config":
            text = block.text.replace("/run/secrets", str(tmp_path)).replace("/etc/ssl", str(tmp_path))
            for secret in re.findall(re.escape(str(tmp_path)) + r"[^\"]+", text):
                Path(secret).write_text("secret")
                Path(secret).chmod(0o400)
            file = tmp_path / "dovetail.toml"
            file.write_text(text)
            load(file, {}, needs=())


def test_the_readme_works_from_top_to_bottom(tmp_path: Path) -> None:
    script = [
        "set -euo pipefail",
        "trap 'kill $(jobs -p) 2>&1 || true; dovetail local down --delete 2>&1 || true' EXIT",
    ]
    expected = []
    for block in blocks(ROOT / "README.md"):
        mark = block.mark or ""
        if mark.startswith("file: "):
            (tmp_path / mark.removeprefix("file: ")).write_text(block.text)
        elif mark.startswith("run: shell"):
            script.append(block.text)
            if "prints: " in mark:
                expected.append(mark.partition("prints: ")[2])
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("DOVETAIL_", "PYTHON"))}
    environ["PATH"] = f"{Path(sys.executable).parent}:{environ['PATH']}"
    environ["STARTED_IN"] = str(tmp_path)
    try:
        done = subprocess.run(
            ["bash", "-mc", "\n".join(script)],
            cwd=tmp_path,
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
    finally:
        # Where it took too long the shell was killed, and its jobs were not; the relay's port is the README's own.
        for pid in processes_in(tmp_path):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    assert done.returncode == 0, done.stdout + done.stderr[-6000:]
    for text in expected:
        assert text in done.stdout.splitlines(), done.stdout + done.stderr[-6000:]


def test_the_readmes_service_is_short() -> None:
    (service,) = (block.text for block in blocks(ROOT / "README.md") if block.mark == "file: shop.py")
    assert len([line for line in service.splitlines() if line.strip()]) <= 20


def test_the_roles_that_the_page_makes_are_enough(stack: Stack, database: Endpoints) -> None:
    (block,) = (block for block in blocks(ROOT / "docs/how-to/roles.md") if block.mark == "run: sql")
    parts = urlsplit(database.superuser_dsn)
    statements = block.text.replace("DATABASE shop", f"DATABASE {parts.path[1:]}").split(";\n")
    logins = re.findall(r"CREATE ROLE (shop_\w+)", block.text)
    with psycopg.connect(database.superuser_dsn, autocommit=True) as superuser:
        try:
            for statement in filter(str.strip, statements):
                # The groups belong to the cluster: another test's database may have brought them.
                with contextlib.suppress(psycopg.errors.DuplicateObject):
                    superuser.execute(statement)
            by_purpose = {
                login: urlunsplit(parts._replace(netloc=f"{login}:change-me@{parts.hostname}:{parts.port}"))
                for login in logins
            }
            settings = load(
                None,
                {
                    "DOVETAIL_POSTGRES__DSN": by_purpose["shop_relay"],
                    "DOVETAIL_POSTGRES__OWNER_DSN": by_purpose["shop_owner"],
                    "DOVETAIL_POSTGRES__APP_DSN": by_purpose["shop_app"],
                    "DOVETAIL_POSTGRES__OPERATOR_DSN": by_purpose["shop_operator"],
                    "DOVETAIL_KAFKA__BOOTSTRAP_SERVERS": database.bootstrap_servers,
                    "DOVETAIL_RELAY__NAME": "roles",
                },
            )
            install(settings, Plan(), report=lambda _step: None, on_wait=lambda _blockers: None)
            found = {finding.check: finding for finding in examine(settings)}
            wanted = {"postgres.replication", *(f"postgres.{role}_rights" for role in ("relay", "app", "operator"))}
            assert wanted <= found.keys()
            assert [found[check].line() for check in sorted(wanted) if found[check].status != "ok"] == []
        finally:
            superuser.execute(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name LIKE '%_roles'"
            )
            # Whoever made them first may grant them; the other tests' owner is not that one any more.
            owner = psycopg.conninfo.conninfo_to_dict(database.owner_dsn)["user"]
            superuser.execute(f"GRANT dovetail_app, dovetail_relay, dovetail_operator TO {owner} WITH ADMIN OPTION")
            for login in logins:
                superuser.execute(f"DROP OWNED BY {login} CASCADE")
                superuser.execute(f"DROP ROLE {login}")


def test_the_way_out_of_a_lost_slot_is_as_its_page_says(stack: Stack) -> None:
    shown = [block for block in blocks(ROOT / "docs/how-to/recover.md") if (block.mark or "").startswith("run: shell")]
    with new_world(stack) as world:
        world.relay().wait_streaming().kill()
        slot_dropped(world)
        with world.writers() as writers:
            wait_until(lambda: writers.tally.transactions >= 3, 10, "three transactions have ended")
        relay = world.relay().wait_for_log("relay_halted")
        for block in shown:
            environ = {**os.environ, **world.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
            done = subprocess.run(
                ["bash", "-ec", block.text], env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                timeout=60, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stdout + done.stderr
            assert (block.mark or "").partition("prints: ")[2] in done.stdout, done.stdout
        relay.wait_streaming()
        world.wait_until_published()
        assert world.books(writers.tally.rolled_back_ids).ok


def commands(mark: str) -> list[str]:
    return [line for page in PAGES for block in blocks(page) if block.mark == mark for line in block.text.splitlines()]


@pytest.mark.parametrize("command", commands("run: pytest"))
def test_the_long_tests_of_the_docs_are_found(command: str) -> None:
    python, *words = shlex.split(command, comments=True)
    assert python == ".venv/bin/python"
    done = subprocess.run(
        [sys.executable, *words, "--collect-only", "-q"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    told = {
        target
        for page in PAGES
        for block in blocks(page)
        if block.mark == "run: make"
        for target in re.findall(r"^make ([a-z-]+)", block.text, re.MULTILINE)
    }
    assert told
    assert told <= targets
