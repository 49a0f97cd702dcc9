"""`dovetail local` without servers: exit codes, and where words and data go."""

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from dovetail_local.cli import app

RUNNER = CliRunner()


@pytest.fixture(autouse=True)
def _no_servers_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DOVETAIL_POSTGRES__DSN", "DOVETAIL_KAFKA__BOOTSTRAP_SERVERS", "DOVETAIL_LOCAL_DIR"):
        monkeypatch.delenv(name, raising=False)


def run(*arguments: object) -> Result:
    return RUNNER.invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize("command", ["env", "status", "down"])
def test_a_stack_that_does_not_run_is_told_in_one_line_with_what_to_type(command: str, tmp_path: Path) -> None:
    result = run(command, "--dir", tmp_path / "none")
    assert result.exit_code == 5
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert "start one with `dovetail local up`" in result.stderr


def test_asking_about_a_stack_makes_no_folder(tmp_path: Path) -> None:
    for command in ("env", "status", "down"):
        run(command, "--dir", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_status_in_json_is_json_even_when_nothing_runs(tmp_path: Path) -> None:
    assert run("status", "--output", "json", "--dir", tmp_path).stdout == "[]\n"


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--brokers", 2, "1 or 3"),
        ("--postgres-version", "9", "--postgres-version 18"),
        ("--kafka-version", "1", "--kafka-version 4.1.1"),
    ],
)
def test_an_impossible_wish_is_refused_before_anything_is_made(
    option: str, value: object, told: str, tmp_path: Path
) -> None:
    result = run("up", option, value, "--dir", tmp_path / "new")
    assert result.exit_code == 2
    assert told in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "new").exists()


def test_with_both_servers_in_the_environment_there_is_nothing_to_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOVETAIL_POSTGRES__DSN", "postgresql://somewhere/else")
    monkeypatch.setenv("DOVETAIL_KAFKA__BOOTSTRAP_SERVERS", "somewhere:9092")
    result = run("up", "--dir", tmp_path / "new")
    assert result.exit_code == 5
    assert "nothing to start" in result.stderr
    assert not (tmp_path / "new").exists()


def test_a_damaged_record_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "stack.json").write_text("{}")
    result = run("up", "--dir", tmp_path)
    assert result.exit_code == 1
    assert "damaged" in result.stderr
    assert len(result.stderr.splitlines()) == 1
