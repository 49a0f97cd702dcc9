"""The configuration: where values come from, what is refused, and in which words."""

from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from dovetail_relay.config import Settings, conninfo, kafka_properties, load, redacted_conninfo, split_qualified
from dovetail_relay.errors import ConfigInvalid
from dovetail_relay.nouns import Delivery

HERE = {
    "DOVETAIL_POSTGRES__DSN": "host=localhost dbname=shop user=relay",
    "DOVETAIL_KAFKA__BOOTSTRAP_SERVERS": "localhost:9092",
}


def given(toml: str, tmp_path: Path, **environ: str) -> Settings:
    file = tmp_path / "dovetail.toml"
    file.write_text(toml)
    return load(file, HERE | environ)


def problems(toml: str, tmp_path: Path, **environ: str) -> list[str]:
    with pytest.raises(ConfigInvalid) as caught:
        given(toml, tmp_path, **environ)
    return list(caught.value.problems)


def test_the_environment_wins_over_the_file_and_a_flag_over_both(tmp_path: Path) -> None:
    file = tmp_path / "dovetail.toml"
    file.write_text('[relay]\nname = "file"\n[delivery]\nbatch_rows = 7\n[log]\nlevel = "debug"\n')
    environ = HERE | {"DOVETAIL_RELAY__NAME": "environment", "DOVETAIL_DELIVERY__BATCH_ROWS": "8"}

    settings = load(file, environ, {"relay.name": "flag"})

    assert (settings.relay.name, settings.delivery.batch_rows, settings.log.level) == ("flag", 8, "debug")
    assert settings.origins["relay.name"] == "flag"
    assert settings.origins["delivery.batch_rows"] == "environment DOVETAIL_DELIVERY__BATCH_ROWS"
    assert settings.origins["log.level"] == "file"


def test_dovetail_config_names_the_file_and_the_argument_wins_over_it(tmp_path: Path) -> None:
    one, two = tmp_path / "one.toml", tmp_path / "two.toml"
    one.write_text('[relay]\nname = "one"\n')
    two.write_text('[relay]\nname = "two"\n')
    environ = HERE | {"DOVETAIL_CONFIG": str(one)}

    assert load(None, environ).relay.name == "one"
    assert load(two, environ).relay.name == "two"


def test_the_file_in_the_working_directory_is_read_and_may_be_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load(None, HERE).relay.name == "dovetail"
    (tmp_path / "dovetail.toml").write_text('[relay]\nname = "here"\n')
    assert load(None, HERE).relay.name == "here"


def test_the_defaults_are_those_of_the_contract(tmp_path: Path) -> None:
    settings = given("", tmp_path)

    assert settings.outbox.schema_and_table == ("dovetail", "outbox")
    assert settings.outbox.publication == settings.relay.slot == settings.relay.name == "dovetail"
    assert settings.checkpoint_topic == "dovetail.checkpoint.dovetail"
    assert settings.delivery.mode is Delivery.EXACTLY_ONCE
    assert settings.allowed_topics == ("outbox.event.*",)
    assert (settings.relay.http_host, settings.relay.http_port) == ("127.0.0.1", 8642)


def test_all_problems_are_told_at_once_with_their_paths(tmp_path: Path) -> None:
    found = problems('[relay]\nname = "A b"\nslto = "x"\n[delivry]\n[delivery]\nmode = "exactly_onec"\n', tmp_path)

    assert any(line.startswith("relay.name: 'A b' is not a relay name") for line in found)
    assert "relay.slto: unknown key; did you mean 'slot'?" in found
    assert "delivry: unknown section; did you mean 'delivery'?" in found
    assert (
        "delivery.mode: 'exactly_onec' is not one of exactly_once, at_least_once; did you mean 'exactly_once'?" in found
    )


def test_what_is_missing_is_told_at_once_with_its_variables() -> None:
    with pytest.raises(ConfigInvalid) as caught:
        load(None, {})
    assert caught.value.problems == (
        "postgres.dsn, kafka.bootstrap_servers: are not set; "
        "set them in the file or in DOVETAIL_POSTGRES__DSN and DOVETAIL_KAFKA__BOOTSTRAP_SERVERS, "
        'or for local servers: dovetail local up; eval "$(dovetail local env)"',
    )
    with pytest.raises(ConfigInvalid, match=r"^kafka.bootstrap_servers: is not set; set it in the file or in "):
        load(None, {}, needs=("kafka.bootstrap_servers",))


def test_only_what_a_command_needs_must_be_there() -> None:
    assert load(None, {}, needs=()).kafka.bootstrap_servers == ""


def test_an_unknown_variable_of_ours_is_refused_but_what_a_platform_injects_is_not() -> None:
    load(None, HERE | {"DOVETAIL_PORT": "tcp://10.0.0.1:80", "DOVETAIL_SERVICE_HOST": "10.0.0.1"})
    with pytest.raises(ConfigInvalid, match=r"DOVETAIL_RELY__NAME: unknown section; did you mean 'relay'"):
        load(None, HERE | {"DOVETAIL_RELY__NAME": "x"})


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("0", "outside 1 to 100000"),
        ("-1", "outside 1 to 100000"),
        ("1000000000", "outside 1 to 100000"),
        ("many", "not a whole number"),
        ("1e3", "not a whole number"),
    ],
)
def test_a_batch_has_a_range(value: str, said: str, tmp_path: Path) -> None:
    assert said in problems("", tmp_path, DOVETAIL_DELIVERY__BATCH_ROWS=value)[0]


@pytest.mark.parametrize("value", ["10MB", "10 mb", " 10Mb ", "10240kB", "10485760"])
def test_sizes_are_read_however_they_are_written(value: str, tmp_path: Path) -> None:
    assert given("", tmp_path, DOVETAIL_DELIVERY__BATCH_BYTES=value).delivery.batch_bytes == 10 << 20


@pytest.mark.parametrize("value", ["10 XB", "MB", "-1MB", "1GB", "1kB", "1.5MB"])
def test_a_size_outside_its_range_or_without_a_known_unit_is_refused(value: str, tmp_path: Path) -> None:
    assert problems("", tmp_path, DOVETAIL_DELIVERY__BATCH_BYTES=value)[0].startswith("delivery.batch_bytes: ")


def test_broker_lists_lose_their_blanks_and_keep_their_brackets(tmp_path: Path) -> None:
    settings = given(
        '[kafka]\nbootstrap_servers = "x"', tmp_path, DOVETAIL_KAFKA__BOOTSTRAP_SERVERS="localhost:9092 , [::1]:9093 "
    )
    assert settings.kafka.bootstrap_servers == "localhost:9092,[::1]:9093"


@pytest.mark.parametrize(
    ("servers", "said"),
    [
        ("localhost:0", "port 0 is outside 1 to 65535"),
        ("localhost:70000", "port 70000 is outside 1 to 65535"),
        ("::1:9092", "write an IPv6 address in brackets"),
        ("localhost", "is not host:port"),
        ("localhost:9092,", "is not host:port"),
        ("http://localhost:9092", "is not host:port"),
    ],
)
def test_a_broker_that_cannot_be_one_is_refused(servers: str, said: str, tmp_path: Path) -> None:
    assert said in problems("", tmp_path, DOVETAIL_KAFKA__BOOTSTRAP_SERVERS=servers)[0]


def test_a_librdkafka_property_passes_under_its_own_name_from_file_and_environment(tmp_path: Path) -> None:
    toml = '[kafka]\n"security.protocol" = "SASL_SSL"\nsocket.keepalive.enable = true\n'
    settings = given(toml, tmp_path, DOVETAIL_KAFKA__SASL_MECHANISM="SCRAM-SHA-512")

    assert kafka_properties(settings) == {
        "bootstrap.servers": "localhost:9092",
        "security.protocol": "SASL_SSL",
        "socket.keepalive.enable": "true",
        "sasl.mechanism": "SCRAM-SHA-512",
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("enable.idempotence", "false"),
        ("acks", "1"),
        ("transactional.id", "mine"),
        ("partitioner", "random"),
        ("isolation.level", "read_uncommitted"),
        ("enable.auto.commit", "true"),
        ("transaction.timeout.ms", "900001"),
        ("message.timeout.ms", "15001"),
        ("socket.timeout.ms", "15001"),
        ("socket.timeout.ms", "8000"),
        ("retry.backoff.ms", "100"),
        ("retry.backoff.max.ms", "999"),
        ("queuing.strategy", "lifo"),
        ("max.in.flight", "6"),
        ("enable.ssl.certificate.verification", "false"),
        ("ssl.endpoint.identification.algorithm", "none"),
    ],
)
def test_a_property_that_would_break_a_promise_is_refused(name: str, value: str, tmp_path: Path) -> None:
    assert problems(f'[kafka]\n"{name}" = "{value}"\n', tmp_path)[0].startswith(f"kafka.{name}: ")


def test_a_longer_transaction_makes_room_for_longer_timeouts(tmp_path: Path) -> None:
    toml = '[kafka]\n"transaction.timeout.ms" = 60000\n"message.timeout.ms" = 50000\n"socket.timeout.ms" = 20000\n'
    assert given(toml, tmp_path).kafka.properties["message.timeout.ms"] == "50000"


@pytest.mark.parametrize("name", ["message.timeout.ms", "delivery.timeout.ms"])
def test_a_shorter_transaction_wants_shorter_timeouts_under_one_of_two_names(name: str, tmp_path: Path) -> None:
    toml = f'[kafka]\n"transaction.timeout.ms" = 9000\n"{name}" = 8500\n"socket.timeout.ms" = 9000\n'
    assert given(toml, tmp_path).kafka.properties[name] == "8500"
    assert len(problems('[kafka]\n"transaction.timeout.ms" = 9000\n', tmp_path)) == 3


def test_a_misspelt_property_gets_the_nearest_name_and_a_rare_one_is_left_to_librdkafka(tmp_path: Path) -> None:
    assert "did you mean 'security.protocol'" in problems('[kafka]\n"security.protocl" = "SSL"\n', tmp_path)[0]
    assert "did you mean 'bootstrap_servers'" in problems('[kafka]\n"bootstap.servers" = "x:1"\n', tmp_path)[0]
    assert given('[kafka]\n"enable.random.seed" = true\n', tmp_path).kafka.properties["enable.random.seed"] == "true"


@pytest.mark.parametrize("protocol", [None, "PLAINTEXT", "sasl_plaintext"])
def test_plaintext_to_another_machine_is_refused_unless_insecure(protocol: str | None, tmp_path: Path) -> None:
    toml = f'[kafka]\n"security.protocol" = "{protocol}"\n' if protocol else ""
    remote = {"DOVETAIL_KAFKA__BOOTSTRAP_SERVERS": "localhost:9092,kafka.example:9092"}

    found = problems(toml, tmp_path, **remote)
    assert found[0].startswith("kafka.security.protocol: ")
    assert "kafka.example is not on this machine" in found[0]
    assert given(toml, tmp_path, **remote, DOVETAIL_KAFKA__INSECURE="true").kafka.insecure


@pytest.mark.parametrize("mode", ["disable", "allow", "prefer", "require"])
def test_unverified_tls_to_another_machine_is_refused_unless_insecure(mode: str, tmp_path: Path) -> None:
    dsn = f"host=db.example dbname=shop sslmode={mode}"
    assert "does not verify the server" in problems("", tmp_path, DOVETAIL_POSTGRES__DSN=dsn)[0]
    assert given("", tmp_path, DOVETAIL_POSTGRES__DSN=dsn, DOVETAIL_POSTGRES__INSECURE="yes").postgres.insecure
    local = f"host=127.0.0.1 dbname=shop sslmode={mode}"
    assert f"sslmode={mode}" in conninfo(given("", tmp_path, DOVETAIL_POSTGRES__DSN=local))


@pytest.mark.parametrize(
    ("dsn", "mode"),
    [
        ("host=db.example dbname=x", "verify-full"),
        ("postgresql://db.example/x", "verify-full"),
        ("host=localhost,db.example dbname=x", "verify-full"),
        ("service=shop", "verify-full"),
        ("host=/var/run/postgresql dbname=x", "prefer"),
        ("host=::1 dbname=x", "prefer"),
        ("dbname=x", "prefer"),
        ("host=db.example dbname=x sslmode=verify-ca", "verify-ca"),
    ],
)
def test_a_remote_server_is_verified_by_default(dsn: str, mode: str, tmp_path: Path) -> None:
    settings = given("", tmp_path, DOVETAIL_POSTGRES__DSN=dsn)
    assert conninfo_to_dict(conninfo(settings, environ={}))["sslmode"] == mode


def test_pghost_decides_where_the_dsn_names_no_host(tmp_path: Path) -> None:
    settings = given("", tmp_path, DOVETAIL_POSTGRES__DSN="dbname=x")
    assert conninfo_to_dict(conninfo(settings, environ={"PGHOST": "db.example"}))["sslmode"] == "verify-full"


def test_the_users_own_parameters_win_over_ours(tmp_path: Path) -> None:
    settings = given("", tmp_path, DOVETAIL_POSTGRES__DSN="host=localhost application_name=mine keepalives_idle=60")
    parts = conninfo_to_dict(conninfo(settings))
    assert (parts["application_name"], parts["keepalives_idle"]) == ("mine", "60")
    assert int(str(parts["connect_timeout"])) == settings.postgres.connect_timeout_seconds


@pytest.mark.parametrize(
    ("hosts", "seconds"), [("host=a", "5"), ("host=a,b", "2"), ("hostaddr=10.0.0.1,10.0.0.2", "2")]
)
def test_of_several_hosts_the_primary_is_looked_for_and_all_together_get_the_timeout(
    hosts: str, seconds: str, tmp_path: Path
) -> None:
    parts = conninfo_to_dict(conninfo(given("", tmp_path, DOVETAIL_POSTGRES__DSN=f"{hosts} dbname=shop")))
    assert parts["connect_timeout"] == seconds
    assert parts.get("target_session_attrs") == (None if "," not in hosts else "read-write")


def test_a_role_without_a_dsn_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="DOVETAIL_POSTGRES__OWNER_DSN"):
        conninfo(given("", tmp_path), "owner")


@pytest.mark.parametrize("name", ["My-Slot", "a" * 64, "", "a b", "ä"])
def test_a_slot_name_follows_the_rule_of_postgresql(name: str, tmp_path: Path) -> None:
    assert "1 to 63 of a-z, 0-9 and _" in problems("", tmp_path, DOVETAIL_RELAY__SLOT=name)[0]


def test_the_slot_and_the_checkpoint_topic_follow_from_the_relays_name(tmp_path: Path) -> None:
    settings = given("", tmp_path, DOVETAIL_RELAY__NAME="shop-eu")
    assert settings.relay.slot == "dovetail_shop_eu"
    assert settings.checkpoint_topic == "dovetail.checkpoint.shop-eu"


@pytest.mark.parametrize(
    "topic", ["a b", "..", ".", "x" * 250, "__consumer_offsets", "dovetail.checkpoint.dovetail", ""]
)
def test_a_topic_that_no_event_may_go_to_is_refused(topic: str, tmp_path: Path) -> None:
    assert problems(f'[routes.order]\ntopic = "{topic}"\n', tmp_path)[0].startswith("routes.order.topic: ")


def test_a_route_takes_its_name_and_the_template_where_it_says_nothing(tmp_path: Path) -> None:
    settings = given('[routes.order]\n[routes.stock]\naggregatetype = "Stock"\ntopic = "stock"\n', tmp_path)

    assert settings.routes["order"].topic == "outbox.event.order"
    assert (settings.routes["stock"].aggregatetype, settings.routes["stock"].topic) == ("Stock", "stock")
    assert settings.topics() == ("outbox.event.order", "stock")
    assert settings.topic_allowed("stock")
    assert settings.topic_allowed("outbox.event.anything")
    assert not settings.topic_allowed("payments")
    assert not settings.topic_allowed("dovetail.checkpoint.dovetail")


def test_a_topic_outside_the_allow_list_gets_the_nearest_name(tmp_path: Path) -> None:
    found = problems('[kafka]\nallowed_topics = ["orders", "stock"]\n[routes.order]\ntopic = "order"\n', tmp_path)
    assert found == [
        "routes.order.topic: TopicNotAllowed: 'order' is not in kafka.allowed_topics; did you mean 'orders'?"
    ]


def test_even_a_glob_for_everything_does_not_reach_the_checkpoint(tmp_path: Path) -> None:
    settings = given('[kafka]\nallowed_topics = ["*"]\n', tmp_path)
    assert not settings.topic_allowed(settings.checkpoint_topic)
    assert not settings.topic_allowed("__transaction_state")


def test_two_routes_for_one_aggregate_type_are_refused(tmp_path: Path) -> None:
    found = problems('[routes.a]\naggregatetype = "order"\n[routes.b]\naggregatetype = "order"\n', tmp_path)
    assert found == ["routes.b.aggregatetype: is the same as that of routes.a"]


def test_a_variable_reaches_the_files_route_whatever_its_case(tmp_path: Path) -> None:
    settings = given("[routes.Order-Line]\n", tmp_path, DOVETAIL_ROUTES__ORDER_LINE__PARTITIONS="12")
    assert settings.routes["Order-Line"].partitions == 12


def test_a_template_of_nothing_but_the_placeholder_needs_an_allow_list(tmp_path: Path) -> None:
    assert problems('[outbox]\ntopic = "{aggregatetype}"\n', tmp_path)[0].startswith("kafka.allowed_topics: ")


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("outbox", ("public", "outbox")),
        ("dovetail.outbox", ("dovetail", "outbox")),
        ('"my.schema"."Out""box"', ("my.schema", 'Out"box')),
        ("größe.outbox", ("größe", "outbox")),
    ],
)
def test_a_qualified_name_falls_into_schema_and_table(name: str, parts: tuple[str, str]) -> None:
    assert split_qualified(name) == parts


@pytest.mark.parametrize("name", ["a.b.c", ".b", "a.", '"a', "a b", "x" * 64, "ü" * 32, ""])
def test_a_name_that_postgresql_would_cut_or_misread_is_refused(name: str, tmp_path: Path) -> None:
    assert problems(f"[outbox]\ntable = '{name}'\n", tmp_path)[0].startswith("outbox.table: ")


@pytest.mark.parametrize("text", ["[", "a = ", "\x00", "[relay]\nname = 'x'\n[relay]\n", "x = 1979-13-01"])
def test_a_file_that_is_not_toml_is_named_and_not_quoted(text: str, tmp_path: Path) -> None:
    found = problems("# s3cret\n" + text, tmp_path)
    assert "is not TOML" in found[0]
    assert "s3cret" not in found[0]
    assert "line and column" not in found[0]


def test_a_named_file_that_does_not_exist_or_is_a_directory_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="does not exist"):
        load(tmp_path / "none.toml", HERE)
    with pytest.raises(ConfigInvalid, match="cannot be read"):
        load(tmp_path, HERE)


def test_what_a_file_that_was_not_read_may_hold_is_not_called_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid) as refused:
        load(tmp_path / "none.toml", {})
    assert len(refused.value.problems) == 1


def test_a_variable_that_is_mistyped_is_named_as_it_was_typed(tmp_path: Path) -> None:
    assert problems("", tmp_path, DOVETAIL_RELAY__NAMEE="x")[0].startswith("DOVETAIL_RELAY__NAMEE: unknown key")
    (found,) = problems("", tmp_path, DOVETAIL_KAFKA__LINGER_MSS="5")
    assert found.startswith("DOVETAIL_KAFKA__LINGER_MSS: ")


def test_a_need_that_either_of_two_keys_fills_names_the_first_where_neither_is_there() -> None:
    needs = ("postgres.operator_dsn|postgres.dsn", "kafka.bootstrap_servers")
    with pytest.raises(ConfigInvalid, match=r"postgres\.operator_dsn, kafka\.bootstrap_servers: are not set"):
        load(None, {}, needs=needs)
    load(None, HERE, needs=needs)


def test_a_long_value_is_cut_in_the_message(tmp_path: Path) -> None:
    assert len(problems("", tmp_path, DOVETAIL_LOG__LEVEL="x" * 5000)[0]) < 200


def test_a_conninfo_is_shown_without_its_passwords() -> None:
    shown = redacted_conninfo("postgresql://u:hunter2@h/d?sslpassword=hunter3")
    assert "hunter" not in shown
    assert "user=u" in shown
