import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dermascan.errors import InputError
from dermascan.stack import ports
from dermascan.stack.object_store import GRPC_PORT_OFFSET
from dermascan.stack.ports import Ports


@pytest.fixture
def taken_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def test_choose_when_a_port_is_wanted_keeps_the_others_as_remembered():
    chosen = ports.choose(Ports(airflow=1001, mlflow=1002, s3=1003), {"mlflow": 7, "s3": None})

    assert (chosen.airflow, chosen.mlflow, chosen.s3) == (1001, 7, 1003)


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"airflow": 70_000}, "70000.*airflow"),
        ({"s3": 60_000}, "60000.*s3"),
        ({"mlflow": 0}, "0.*mlflow"),
        ({"airflow": 5000}, "cannot share"),
    ],
)
def test_choose_when_a_port_cannot_be_used_names_it(wanted, words):
    with pytest.raises(InputError, match=words):
        ports.choose(Ports(), wanted)


def test_load_when_saved_returns_the_same_and_else_the_usual(tmp_path):
    path = tmp_path / "ports.json"
    before = ports.load(path)

    ports.save(path, Ports(s3=9333))

    assert before == Ports()
    assert ports.load(path) == Ports(s3=9333)


def test_load_when_damaged_says_which_file(tmp_path):
    path = tmp_path / "ports.json"
    path.write_text('{"s3": "many"}')

    with pytest.raises(InputError, match=r"ports\.json is damaged"):
        ports.load(path)


def test_require_free_when_taken_names_port_owner_option_and_variable(taken_port):
    with pytest.raises(InputError) as caught:
        ports.require_free(Ports(airflow=taken_port), ["airflow"])

    message = str(caught.value)
    for word in (f"port {taken_port}", f"process {os.getpid()}", "--airflow-port"):
        assert word in message
    assert "DERMASCAN_AIRFLOW_PORT" in message


def test_require_free_when_another_part_is_asked_for_does_not_look(taken_port):
    ports.require_free(Ports(airflow=taken_port, mlflow=ports.any_free()), ["mlflow"])


def test_require_free_when_the_grpc_twin_of_s3_is_taken_says_so():
    s3 = ports.any_free()
    with socket.socket() as server:
        server.bind(("127.0.0.1", s3 + GRPC_PORT_OFFSET))
        server.listen()

        with pytest.raises(InputError, match=f"port {s3 + GRPC_PORT_OFFSET}.* beside {s3}"):
            ports.require_free(Ports(s3=s3), ["s3"])


def test_with_internal_ports_when_still_free_keeps_them_and_else_finds_others(taken_port):
    first = ports.with_internal_ports(Ports())
    assert ports.with_internal_ports(first) == first

    second = ports.with_internal_ports(first.model_copy(update={"s3_filer": taken_port}))

    assert second.s3_filer != taken_port
    assert (second.s3_master, second.s3_volume) == (first.s3_master, first.s3_volume)


@given(st.integers(11_000, 12_000), st.integers(11_000, 12_000))
def test_with_internal_ports_when_chosen_are_all_different(airflow, mlflow):
    chosen = ports.with_internal_ports(Ports(airflow=airflow, mlflow=mlflow, s3_volume=airflow))

    inside = [chosen.s3_master, chosen.s3_volume, chosen.s3_filer]
    assert len({airflow, mlflow, chosen.s3, *inside}) == 5 + (airflow != mlflow)


def test_choose_when_the_api_would_share_a_port_says_so():
    with pytest.raises(InputError, match=r"cannot share a port \(airflow, s3, mlflow, serving"):
        ports.choose(Ports(), {"serving": 5000})
