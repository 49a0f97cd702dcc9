"""What the README promises for the first ten minutes, on the built wheel in an empty home."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from dovetail_local.cache import cache_folder
from support.waiting import wait_until

pytestmark = pytest.mark.timeout(300)

ROOT = Path(__file__).parents[2]
HERE = Path(sys.executable).parent


def _run(*command, cwd, env, seconds=120, expect=0):
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=seconds, check=False)
    assert done.returncode == expect, (
        f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}\n{_server_words(cwd)}"
    )
    assert "Traceback" not in done.stderr
    return done


def _server_words(folder):
    """The ends of the servers' logs, for whoever reads why it failed."""
    return "\n".join(log.read_text()[-3000:] for log in Path(folder).glob(".dovetail/local/logs/*.log"))


@pytest.fixture(scope="module")
def installed():
    """The wheel, installed with its extras into a fresh environment; gives that environment's folder of programs."""
    # Open to all, as an environment in /opt is: root's PostgreSQL runs from it under another user.
    with tempfile.TemporaryDirectory(prefix="dovetail-installed-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        _keep_downloads(folder / "cache" / "dovetail")
        yield _install(folder)


def _keep_downloads(cache):
    """Take Kafka along from earlier runs; what is derived from it belongs to one environment and is made anew."""
    for source in cache_folder().glob("kafka-*"):
        if source.is_dir():
            shutil.copytree(source, cache / source.name, ignore=shutil.ignore_patterns("*.aot", "*.jsa"))


def _install(folder):
    environ = dict(os.environ)
    wheels = folder / "wheels"
    _run(HERE / "python", "-m", "hatchling", "build", "-t", "wheel", "-d", wheels, cwd=ROOT, env=environ)
    (wheel,) = wheels.glob("*.whl")
    venv = folder / "venv"
    _run(HERE / "uv", "venv", "--quiet", "--python", sys.executable, venv, cwd=folder, env=environ)
    python = venv / "bin" / "python"
    target = f"{wheel}[local,relay]"
    _run(HERE / "uv", "pip", "install", "--quiet", "--python", python, target, cwd=folder, env=environ, seconds=240)
    return venv / "bin"


@pytest.fixture
def environ(installed, tmp_path):
    """An empty home, nothing of Dovetail's set; only the downloads of server software are kept from earlier."""
    home = tmp_path / "home"
    home.mkdir()
    kept = {name: os.environ[name] for name in ("LANG", "LC_ALL", "TMPDIR") if name in os.environ}
    path = f"{installed}{os.pathsep}/usr/bin{os.pathsep}/bin"
    return kept | {"HOME": str(home), "PATH": path, "XDG_CACHE_HOME": str(installed.parents[1] / "cache")}


def _addresses(text):
    return dict(re.findall(r"^export (\w+)='(.*)'$", text, re.MULTILINE))


@pytest.fixture
def project(environ, tmp_path):
    """`dovetail new shop` in an empty folder; afterwards its servers are taken down, whatever happened."""
    folder = tmp_path / "empty"
    folder.mkdir()
    done = _run("dovetail", "new", "shop", cwd=folder, env=environ)
    assert "cd shop" in done.stderr
    yield folder / "shop"
    subprocess.run(["dovetail", "local", "down", "--delete"], cwd=folder / "shop", env=environ, check=False, timeout=60)


def _ships(project, environ, wanted):
    """Run the consumer until it has said what is wanted; give everything it said."""
    log = project / "ship.log"
    with log.open("wb") as output:
        consumer = subprocess.Popen(["python", "shop.py", "ship"], cwd=project, env=environ, stdout=output)
    try:
        wait_until(
            lambda: wanted in log.read_text() or consumer.poll() is not None, 30, f"the consumer says {wanted!r}"
        )
    finally:
        consumer.send_signal(signal.SIGINT)
        status = consumer.wait(15)
    assert status == 0
    return log.read_text()


def _tail(project, environ, count):
    words = ("dovetail", "tail", "--from-start", "--max", str(count), "--timeout", "20", "--output", "jsonl")
    done = _run(*words, cwd=project, env=environ)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_demo_new_up_init_relay_order_ship_tail(environ, project):
    demo = _run("dovetail", "demo", "--seconds", "4", "--output", "json", cwd=project.parent, env=environ)
    assert json.loads(demo.stdout)["lost"] == 0

    up = _run("dovetail", "local", "up", cwd=project, env=environ)
    shown = _run("dovetail", "local", "env", cwd=project, env=environ)
    assert _addresses(up.stdout) == _addresses(shown.stdout) != {}
    environ |= _addresses(shown.stdout)
    # Other relays may run on this machine; a user's own has the default port to itself.
    environ["DOVETAIL_RELAY__HTTP_PORT"] = "0"

    assert "topic outbox.event.order: done" in _run("dovetail", "init", cwd=project, env=environ).stderr
    with (project / "relay.log").open("wb") as log:
        relay = subprocess.Popen(["dovetail", "relay", "run"], cwd=project, env=environ, stderr=log)
    try:
        _run("python", "shop.py", "setup", cwd=project, env=environ)
        assert _run("python", "shop.py", "order", "apple", cwd=project, env=environ).stdout == "order 1: apple\n"
        assert _run("python", "shop.py", "order", "pear", cwd=project, env=environ).stdout == "order 2: pear\n"
        assert "item='pear'): 1 so far" in _ships(project, environ, "item='pear'")
        _run("python", "shop.py", "order", "apple", cwd=project, env=environ)
        again = _ships(project, environ, "item='apple'")
        assert again == "shipped OrderPlaced(order_id=3, item='apple'): 2 so far\n"
        events = sorted(_tail(project, environ, 3), key=lambda event: event["key"])
        assert [event["payload"]["item"] for event in events] == ["apple", "pear", "apple"]
        assert [(event["type"], event["key"]) for event in events] == [("OrderPlaced", key) for key in "123"]
        status = subprocess.run(["dovetail", "status"], cwd=project, env=environ, capture_output=True, check=False)
        assert b"Traceback" not in status.stderr
    finally:
        relay.send_signal(signal.SIGTERM)
        assert relay.wait(15) == 0


def test_new_never_overwrites(environ, project):
    (project / "README.md").unlink()
    before = {path.name: path.read_bytes() for path in project.iterdir()}
    refused = _run("dovetail", "new", "shop", cwd=project.parent, env=environ, expect=1)
    assert re.fullmatch(r"dovetail new: shop/dovetail\.toml: exists already; next: [^\n]*\n", refused.stderr)
    assert {path.name: path.read_bytes() for path in project.iterdir()} == before


@pytest.mark.parametrize("name", ["../shop", "a/b", "", ".hidden", "with space", "-x"])
def test_new_refuses_a_name_that_is_no_folder(environ, tmp_path, name):
    refused = _run("dovetail", "new", "--", name, cwd=tmp_path, env=environ, expect=2)
    assert len(refused.stderr.splitlines()) == 1


def test_new_says_in_one_line_where_it_cannot_write(environ, tmp_path):
    (tmp_path / "file").write_text("")
    refused = _run("dovetail", "new", "shop", "--dir", "file", cwd=tmp_path, env=environ, expect=2)
    assert len(refused.stderr.splitlines()) == 1
    (tmp_path / "shop").write_text("")
    refused = _run("dovetail", "new", "shop", cwd=tmp_path, env=environ, expect=1)
    assert len(refused.stderr.splitlines()) == 1


def test_the_project_holds_no_secret_and_is_short(project):
    shutil.rmtree(project / ".dovetail", ignore_errors=True)
    assert sorted(path.name for path in project.iterdir()) == [".gitignore", "README.md", "dovetail.toml", "shop.py"]
    assert len((project / "shop.py").read_text().splitlines()) < 60
    assert (project / "README.md").read_text().startswith("# shop\n")
    assert "dsn" not in (project / "dovetail.toml").read_text()
