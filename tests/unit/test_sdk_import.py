"""What an import brings along."""

import subprocess
import sys


def loaded_by(statement):
    code = f"import sys; {statement}; print(' '.join(sys.modules))"
    return set(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split())


def test_importing_dovetail_brings_no_driver_and_no_kafka():
    loaded = loaded_by("import dovetail")
    assert not loaded & {"confluent_kafka", "psycopg", "fastavro", "dovetail_relay", "asyncio", "pydantic"}


def test_the_driver_brings_no_kafka_and_no_relay():
    loaded = loaded_by("import dovetail.psycopg, dovetail.registry, dovetail.kafka")
    assert "psycopg" in loaded
    assert not loaded & {"confluent_kafka", "dovetail_relay"}


def test_the_kafka_extra_is_named_where_it_is_missing():
    code = (
        "import sys; sys.modules['confluent_kafka'] = None\n"
        "from dovetail.kafka import Consumer\n"
        "try: Consumer('x', consumer='c', topics=['t'], database='', handler=print)\n"
        "except ImportError as error: print(error)"
    )
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert told == "dovetail.kafka needs confluent-kafka: pip install 'dovetail[kafka]'\n"
