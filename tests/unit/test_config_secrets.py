"""Secrets: they do not print, they come from files, and the files are checked."""

import copy
import dataclasses
import json
import pickle
from pathlib import Path

import pytest

from dovetail_relay.config import BadSecretFile, Secret, conninfo, effective, kafka_properties, load, scrubbed
from dovetail_relay.errors import ConfigInvalid
from dovetail_relay.settings.secret import read_secret_file

DSN = "host=localhost dbname=shop user=relay password=hunter2"
ENVIRON = {
    "DOVETAIL_POSTGRES__DSN": DSN,
    "DOVETAIL_POSTGRES__OWNER_DSN": "postgresql://owner:hunter2@localhost/shop",
    "DOVETAIL_KAFKA__BOOTSTRAP_SERVERS": "localhost:9092",
    "DOVETAIL_KAFKA__SASL_PASSWORD": "hunter2",
    "DOVETAIL_KAFKA__SSL_KEY_PEM": "-----BEGIN hunter2",
    "DOVETAIL_KAFKA__SASL_OAUTHBEARER_CLIENT_SECRET": "hunter2",
    "DOVETAIL_CONSOLE__TOKEN": "hunter2",
}


def secret_file(tmp_path: Path, text: str, mode: int = 0o400) -> Path:
    file = tmp_path / "secret"
    file.write_text(text)
    file.chmod(mode)
    return file


def test_no_way_of_printing_settings_shows_a_secret() -> None:
    settings = load(None, ENVIRON)

    for text in (repr(settings), str(settings), f"{settings}", repr(dataclasses.astuple(settings.postgres))):
        assert "hunter2" not in text
    assert "hunter2" not in json.dumps(effective(settings))


def test_a_secret_is_neither_pickled_nor_dumped_and_a_copy_stays_one() -> None:
    secret = Secret("hunter2")
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    with pytest.raises(TypeError):
        json.dumps(secret)
    assert copy.deepcopy(secret) is secret
    assert f"{secret} {secret!r} {secret:>5}" == "*** Secret('***')   ***"
    assert secret == Secret("hunter2")
    assert secret != "hunter2"


def test_a_dsn_that_cannot_be_parsed_is_not_quoted() -> None:
    with pytest.raises(ConfigInvalid) as caught:
        load(None, ENVIRON | {"DOVETAIL_POSTGRES__DSN": "postgresql://u:hunter2@h:port:/x y hunter2"})
    assert "hunter2" not in str(caught.value)
    assert caught.value.problems[0].startswith("postgres.dsn: is not a connection string")


def test_a_secret_from_a_file_loses_its_newline_and_is_read_again_after_rotation(tmp_path: Path) -> None:
    file = secret_file(tmp_path, "first\n", 0o600)
    settings = load(None, ENVIRON | {"DOVETAIL_POSTGRES__PASSWORD_FILE": str(file)})

    assert "password=first" in conninfo(settings)
    file.write_text("second\r\n")
    assert "password=second" in conninfo(settings)


def test_a_dsn_and_kafka_passwords_may_stand_in_files(tmp_path: Path) -> None:
    (tmp_path / "k").mkdir()
    dsn, sasl = secret_file(tmp_path, DSN), secret_file(tmp_path / "k", "s4sl\n")
    environ = {"DOVETAIL_POSTGRES__DSN_FILE": str(dsn), "DOVETAIL_KAFKA__BOOTSTRAP_SERVERS": "localhost:9092"}
    settings = load(None, environ | {"DOVETAIL_KAFKA__SASL_PASSWORD_FILE": str(sasl)})

    assert "dbname=shop" in conninfo(settings)
    assert kafka_properties(settings)["sasl.password"] == "s4sl"
    assert "s4sl" not in repr(settings)


def test_a_value_and_its_file_together_are_refused(tmp_path: Path) -> None:
    file = secret_file(tmp_path, DSN)
    paths = {"DOVETAIL_POSTGRES__DSN_FILE": str(file), "DOVETAIL_KAFKA__SASL_PASSWORD_FILE": str(file)}
    with pytest.raises(ConfigInvalid) as caught:
        load(None, ENVIRON | paths)
    assert [line.split(":")[0] for line in caught.value.problems] == ["postgres.dsn_file", "kafka.sasl.password_file"]


@pytest.mark.parametrize(
    ("text", "mode", "said"),
    [
        ("", 0o400, "is empty"),
        ("\n", 0o400, "is empty"),
        ("x", 0o644, "has mode 0644; others must not read it"),
        ("x", 0o460, "has mode 0460"),
        ("a\nb\n", 0o400, "more than one line"),
        ("x" * 70000, 0o400, "has 70000 bytes"),
    ],
)
def test_a_secret_file_that_cannot_be_right_is_refused_in_its_own_words(
    text: str, mode: int, said: str, tmp_path: Path
) -> None:
    with pytest.raises(BadSecretFile, match=said):
        read_secret_file(secret_file(tmp_path, text, mode))


def test_a_missing_secret_file_and_a_directory_have_their_own_words(tmp_path: Path) -> None:
    with pytest.raises(BadSecretFile, match="does not exist"):
        read_secret_file(tmp_path / "none")
    with pytest.raises(BadSecretFile, match="is a directory"):
        read_secret_file(tmp_path)


def test_a_bad_secret_file_is_a_problem_of_the_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match=r"postgres\.password_file: .*does not exist"):
        load(None, ENVIRON | {"DOVETAIL_POSTGRES__PASSWORD_FILE": str(tmp_path / "none")})


@pytest.mark.parametrize(
    "text",
    [
        "connection to 'host=x password=hunter2 dbname=y' failed",
        "connection to 'password='hunter2 and more' dbname=y' failed",
        "cannot reach postgresql://relay:hunter2@h/d",
        "sslpassword = hunter2",
    ],
)
def test_a_drivers_message_loses_its_passwords(text: str) -> None:
    assert "hunter2" not in scrubbed(text)
