"""The wheel, as a user meets it: built from this tree, installed without extras into a clean environment."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UV = Path(sys.executable).with_name("uv")
PACKAGES = {
    "dovetail_schemas": ROOT / "schemas/dovetail_schemas",
    "dovetail": ROOT / "sdk/dovetail",
    "dovetail_relay": ROOT / "relay/dovetail_relay",
    "dovetail_local": ROOT / "local/dovetail_local",
}
EXTRA_LINE = "pip install 'dovetail[relay]'"


def project() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def uv(*arguments: object, **environ: str) -> None:
    command = [str(UV), *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **environ}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    # The build back end is pinned in requirements.lock and is here already.
    uv("build", "--wheel", "--no-build-isolation", "--python", sys.executable, "--out-dir", out)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def clean(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment that holds the wheel and what it needs without any extra; returns its `bin`."""
    environment = tmp_path_factory.mktemp("clean") / "venv"
    uv("venv", "--python", sys.executable, environment)
    uv("pip", "install", wheel, VIRTUAL_ENV=str(environment))
    return environment / "bin"


def run(program: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("DOVETAIL_", "PYTHON"))}
    return subprocess.run(
        [str(program), *arguments],
        cwd=program.parent,
        env={**plain, **environ},
        capture_output=True,
        text=True,
        check=False,
    )


def shipped(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_holds_every_source_file_and_all_data(wheel: Path) -> None:
    names = shipped(wheel)
    for package, folder in PACKAGES.items():
        sources = {
            f"{package}/{path.relative_to(folder).as_posix()}"
            for path in folder.rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        assert f"{package}/py.typed" in sources
        assert sources <= names, f"{sorted(sources - names)} are not in the wheel"
    assert any(name.startswith("dovetail_schemas/migrations/") and name.endswith(".sql") for name in names)
    assert any(name.startswith("dovetail_schemas/queries/") and name.endswith(".sql") for name in names)


def test_the_wheel_holds_nothing_else(wheel: Path) -> None:
    tops = {name.partition("/")[0] for name in shipped(wheel)}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)


def test_the_licence_is_in_the_wheel(wheel: Path) -> None:
    (licence,) = (name for name in shipped(wheel) if name.endswith(".dist-info/licenses/LICENSE"))
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read(licence) == (ROOT / "LICENSE").read_bytes()


def test_one_version_everywhere(wheel: Path, clean: Path) -> None:
    version = str(project()["version"])
    assert wheel.name.startswith(f"dovetail-{version}-py3-none-any")
    told = run(clean / "python", "-c", "import importlib.metadata as m; print(m.version('dovetail'))")
    assert told.stdout.strip() == version
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert version in headings or headings[0] == "Unreleased", headings


def test_the_sdk_alone_imports_without_any_extra(clean: Path) -> None:
    statement = (
        "import dovetail, dovetail_schemas, dovetail_schemas.avro, dovetail_schemas.sql as s; print(len(s.queries))"
    )
    done = run(clean / "python", "-c", statement)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0


def test_without_extras_the_command_names_the_extra_and_exits_2(clean: Path) -> None:
    for arguments in ((), ("--help",), ("status",), ("relay", "--help")):
        done = run(clean / "dovetail", *arguments)
        assert (done.returncode, done.stdout) == (2, ""), (arguments, done)
        assert EXTRA_LINE in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_without_extras_the_relay_names_the_extra_and_exits_2(clean: Path) -> None:
    done = run(
        clean / "dovetail",
        "relay",
        "run",
        DOVETAIL_POSTGRES__DSN="postgresql://relay@localhost/shop",
        DOVETAIL_KAFKA__BOOTSTRAP_SERVERS="localhost:9092",
    )
    assert done.returncode == 2, done.stderr
    assert EXTRA_LINE in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_installed_files_are_the_wheels_own(clean: Path) -> None:
    done = run(clean / "python", "-c", "import dovetail_relay; print(dovetail_relay.__path__[0])")
    assert str(clean.parent) in done.stdout
