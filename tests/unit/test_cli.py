"""The command line: exit codes, one line per error, suggestions, and what stays unloaded."""

import builtins
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from dovetail_relay import cli
from dovetail_relay.cli import commands, failures, main
from dovetail_relay.cli.argv import hoisted
from dovetail_relay.errors import ConfigInvalid, Gap, KafkaUnavailable, ServerUnreachable

HERE = {
    "DOVETAIL_POSTGRES__DSN": "host=127.0.0.1 port=1 dbname=shop user=relay password=hunter2",
    "DOVETAIL_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1",
}


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("DOVETAIL_")]:
        monkeypatch.delenv(name)


def place(monkeypatch: pytest.MonkeyPatch, name: str, command: object) -> None:
    """A command made for one test, mounted like the others."""
    module = ModuleType(f"dovetail_relay.cli.made_{name}")
    module.__spec__ = object()  # type: ignore[assignment] # what find_spec asks of a loaded module
    module.app = command  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(commands.TOP, name, commands.Place(module.__name__))  # type: ignore[arg-type]


def test_no_arguments_show_the_usage_on_stderr_and_are_an_error_of_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Usage: dovetail" in err
    assert "doctor" in err


@pytest.mark.parametrize("group", ["relay", "config", "local"])
def test_a_group_without_its_command_shows_its_help_in_lines(group: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([group]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"Usage: dovetail {group} [OPTIONS] COMMAND [ARGS]...\n\n")
    assert "\nCommands:\n" in err


def test_help_lists_every_command_and_ends_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    listed = capsys.readouterr().out
    assert all(f"\n  {name} " in listed for name in ("init", "doctor", "relay", "config", "local", "version"))


@pytest.mark.parametrize(
    ("argv", "suggestion"),
    [
        (["--hlep"], "--help"),
        (["docter"], "did you mean 'doctor'?"),
        (["relay", "rnu"], "did you mean 'run'?"),
        (["relay", "run", "--htpp-port", "1"], "did you mean '--http-port'?"),
        (["init", "--print-sq"], "--print-sql"),
    ],
)
def test_a_misspelt_word_gets_a_suggestion_in_one_line(
    argv: list[str], suggestion: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("dovetail: USAGE: ")
    assert suggestion in err
    assert "next: dovetail" in err


@pytest.mark.parametrize("argv", [["version"], ["--version"]])
def test_the_version_goes_to_stdout(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 0
    assert capsys.readouterr().out.startswith("dovetail 0.")


def test_the_version_is_data_where_data_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version", "--output", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["version"].startswith("0.")


@pytest.mark.parametrize(
    ("argv", "path"),
    [(["replay", "--id"], "replay"), (["stuck", "list", "--key"], "stuck list"), (["--output", "json", "x"], "")],
)
def test_an_error_of_usage_points_to_the_help_of_its_own_command(
    argv: list[str], path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    assert capsys.readouterr().err.endswith(f"; next: dovetail {path} --help\n".replace("  ", " "))


@pytest.mark.parametrize("command", [["stuck", "release"], ["stuck", "discard"], ["replay"], ["recover"]])
def test_a_command_is_followed_or_ended_and_not_both(
    command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**HERE, "DOVETAIL_POSTGRES__OPERATOR_DSN": HERE["DOVETAIL_POSTGRES__DSN"]}.items():
        monkeypatch.setenv(name, value)
    assert main([*command, "--follow", "--withdraw"]) == 2
    assert "follow it or end it, not both" in capsys.readouterr().err
    for way in ("--follow", "--withdraw"):
        assert main([*command, way, "--dry-run"]) == 2
        assert "it would do something to the command that is under way" in capsys.readouterr().err


def test_each_problem_of_the_configuration_is_a_line_of_its_own(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOVETAIL_RELAY__NAME", "A b")
    assert main(["init", "--check"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[2] for line in lines] == ["relay.name", "postgres.dsn, kafka.bootstrap_servers"]
    assert all(line.startswith("dovetail: CONFIG_INVALID: ") and "; next: " in line for line in lines)


def test_a_database_that_cannot_be_reached_ends_with_3_and_no_password(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in HERE.items():
        monkeypatch.setenv(name, value)
    assert main(["init"]) == 3
    err = capsys.readouterr().err
    assert err.startswith("dovetail: SERVER_UNREACHABLE: PostgreSQL (postgres.dsn)")
    assert err.count("\n") == 1
    assert "hunter2" not in err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Gap("x"), 1),
        (KafkaUnavailable("x"), 3),
        (ServerUnreachable("x"), 3),
        (ConfigInvalid(["a: b"]), 2),
        (failures.CheckFound("x"), 4),
        (failures.NothingToDo("x"), 5),
        (KeyboardInterrupt(), 130),
        (ModuleNotFoundError("x", name="confluent_kafka.admin"), 2),
        (ImportError("no pq wrapper available"), 2),
        (ZeroDivisionError("x\ny"), 1),
    ],
)
def test_every_error_ends_in_one_line_and_its_exit_code(
    error: BaseException, code: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise error

    place(monkeypatch, "fail", fail)
    assert main(["fail"]) == code
    err = capsys.readouterr().err
    assert err.startswith("dovetail: ")
    assert err.count("\n") == 1


def test_a_traceback_comes_only_with_debug(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    place(monkeypatch, "fail", fail)
    assert main(["fail", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_command_without_its_extra_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(commands.TOP, "local", commands.Place("dovetail_local_not_installed.cli", extra="local"))  # type: ignore[arg-type]
    assert main(["local", "up", "--dir", "x"]) == 2
    assert capsys.readouterr().err == "dovetail: this command needs the extra: pip install 'dovetail[local]'\n"


def test_without_typer_there_is_still_an_answer(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *rest: object) -> object:
        if name == "typer":
            raise ModuleNotFoundError(name=name)
        return real(name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    assert cli.main(["doctor"]) == 2
    assert capsys.readouterr().err == "dovetail: the CLI needs the extra: pip install 'dovetail[relay]'\n"


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["init", "--config", "x", "--check"], ["--config", "x", "init", "--check"]),
        (["init", "--config=x"], ["--config=x", "init"]),
        (["config", "show", "--output", "json", "--debug"], ["--output", "json", "--debug", "config", "show"]),
        (["--config", "local", "init", "--output", "json"], ["--config", "local", "--output", "json", "init"]),
        (["demo", "--output", "json", "--debug"], ["--debug", "demo", "--output", "json"]),
        (["tail", "--", "--debug"], ["tail", "--", "--debug"]),
        (["init", "--config"], ["--config", "init"]),
    ],
)
def test_global_options_may_stand_behind_a_command_of_ours(argv: list[str], expected: list[str]) -> None:
    assert hoisted(argv, also_valued=argv[0] != "demo") == expected


def test_config_show_tells_values_and_origins_as_json(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "my.toml"
    file.write_text('[relay]\nname = "shop"\n')
    for name, value in HERE.items():
        monkeypatch.setenv(name, value)
    assert main(["config", "show", "--config", str(file), "--output", "json"]) == 0
    out = capsys.readouterr().out
    shown = {row["key"]: row for row in json.loads(out)}
    assert shown["relay.name"] == {"key": "relay.name", "value": "shop", "from": "file"}
    assert shown["postgres.dsn"]["from"] == "environment DOVETAIL_POSTGRES__DSN"
    assert "port=1" in shown["postgres.dsn"]["value"]
    assert "hunter2" not in out


def test_the_sql_script_names_roles_quoted(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "--print-sql", "--app-role", 'odd "role"; drop', "--relay-role", "r"]) == 0
    out = capsys.readouterr().out
    assert 'GRANT "dovetail_app" TO "odd ""role""; drop";' in out
    assert 'ALTER ROLE "r" REPLICATION;' in out


def test_the_kafka_script_quotes_for_the_shell_and_makes_every_topic(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOVETAIL_ROUTES__ORDER__TOPIC", "orders")
    monkeypatch.setenv("DOVETAIL_KAFKA__SASL_USERNAME", "it's me")
    assert main(["init", "--print-kafka"]) == 0
    lines = capsys.readouterr().out.splitlines()
    made = [line for line in lines if line.startswith("kafka-topics.sh")]
    assert [line.split("--topic ")[1].split()[0] for line in made] == ["dovetail.checkpoint.dovetail", "orders"]
    assert any("'User:it'\"'\"'s me'" in line and "--transactional-id dovetail." in line for line in lines)


def test_a_relay_that_is_told_nothing_says_so_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["relay", "run"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err.startswith("dovetail: CONFIG_INVALID: postgres.dsn, kafka.bootstrap_servers: are not set; ")


def test_the_relays_own_flags_reach_the_settings_and_name_their_variables(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in HERE.items():
        monkeypatch.setenv(name, value)
    assert main(["relay", "run", "--name", "A b", "--http-port=70000", "--delivery", "sometimes"]) == 2
    err = capsys.readouterr().err
    assert all(f"{key}: " in err for key in ("relay.name", "relay.http_port", "delivery.mode"))
    assert main(["relay", "run", "--help"]) == 0
    assert "[env: DOVETAIL_RELAY__NAME]" in capsys.readouterr().out


def test_the_relay_loads_nothing_that_only_other_commands_need() -> None:
    code = (
        "import sys\nfrom dovetail_relay.cli import main\n"
        "assert main(['relay', 'run', '--help']) == 0\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules}), file=sys.stderr)\n"
        "print(*sorted(name for name in sys.modules if name.startswith('dovetail_relay.')), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    roots, ours = (set(line.split()) for line in done.stderr.splitlines())
    assert not roots & {"rich", "pydantic", "jinja2", "dovetail_local", "confluent_kafka", "typer", "click"}
    assert not {name for name in ours if ".setup" in name or name.endswith((".cli.init", ".cli.doctor"))}


def test_every_command_that_a_message_names_is_there() -> None:
    root = Path(__file__).parents[2]
    named = {
        (match[1], file.name)
        for folder in ("sdk", "relay", "schemas", "local")
        for file in (*(root / folder).rglob("*.py"), *(root / folder).rglob("*.sql"))
        for match in re.finditer(r"(?:remedy ?= ?f?\"|`|next: )dovetail ([a-z]+)", file.read_text())
    }
    assert named, "messages name commands"
    assert {
        each for each in named if each[0] not in commands.TOP or not commands.exists(commands.TOP[each[0]])
    } == set()


@pytest.mark.parametrize("command", [["replay"], ["stuck", "release"]])
def test_a_span_that_ends_before_it_begins_is_refused(
    command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**HERE, "DOVETAIL_POSTGRES__OPERATOR_DSN": HERE["DOVETAIL_POSTGRES__DSN"]}.items():
        monkeypatch.setenv(name, value)
    assert main([*command, "--since", "10m", "--until", "20m", "--dry-run"]) == 2
    assert "it lies before --since" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["16/B374D848", "1/00000016B374D848/3", "1/16/B374D848/3", "16/B374D848..16/B374D848"])
def test_a_range_of_the_log_takes_a_position_in_each_form_in_which_it_is_shown(text: str) -> None:
    from dovetail_relay.cli.replay import _range

    assert [hex(lsn) for lsn in _range(text)] == ["0x16b374d848"] * 2
