import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.errors import ApiError
from serve.kserve_tensors import DTYPES, InferRequest, encode_reply, parse_request


def body(*inputs: dict[str, Any], tail: bytes = b"", **more: Any) -> tuple[bytes, str]:
    head = json.dumps({"inputs": list(inputs), **more}).encode()
    return head + tail, str(len(head))


def one(name: str = "A", datatype: str = "FP32", shape: Any = (2,), **more: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": list(shape), **more}


@pytest.mark.parametrize("datatype", sorted(DTYPES.keys() - {"BYTES"}))
def test_every_datatype_is_read_from_json_and_from_bytes_and_written_again(datatype: str) -> None:
    values = np.array([[0, 1, 1]], dtype=DTYPES[datatype])
    content, header = body(
        one("J", datatype, (1, 3), data=[[0, 1, 1]]),
        one("B", datatype, (1, 3), parameters={"binary_data_size": values.nbytes}),
        tail=values.tobytes(),
    )
    request = parse_request(content, header, raw_input="W")
    for name in "JB":
        assert request.inputs[name].dtype == DTYPES[datatype] and (request.inputs[name] == values).all()
    reply, size = encode_reply("m", "1", InferRequest("x", {}, {}, None, True), {"Y": (datatype, values)})
    assert reply[size:] == values.tobytes()
    assert json.loads(reply[:size])["outputs"][0]["parameters"] == {"binary_data_size": values.nbytes}


def test_a_body_without_a_header_of_its_own_is_one_element() -> None:
    request = parse_request(b"RIFF...", "0", raw_input="WAV")
    assert request.inputs["WAV"].tolist() == [[b"RIFF..."]] and request.datatypes == {"WAV": "BYTES"}


@pytest.mark.parametrize(
    ("sent", "says"),
    [
        ((b"{", None), "not JSON"),
        ((b"[" * 100_000, None), "not JSON"),
        ((b"[]", None), "the request"),
        ((b"{}", None), "inputs: Field required"),
        ((b"{}", "7"), "from 0 to the body's 2 bytes, got '7'"),
        ((b"{}", "-1"), "got '-1'"),
        (body(one(data=[1])), r"shape \[2\] does not hold the 1 elements"),
        (body(one(shape=(-2, -1), data=[1, 2])), "does not hold"),
        (body(one(data=["a", "b"])), "data is not FP32"),
        (body(one(data=[[1], [2, 3]])), "data is not FP32"),
        (body(one(data=None)), "data must be a list"),
        (body(one(datatype="INT8", data=[1000, 1])), "data is not INT8"),
        (body(one(datatype="FP8", data=[1, 2])), "datatype 'FP8' is not known"),
        (body(one(datatype="BYTES", data=["a", 3])), "must be strings"),
        (body(one(parameters={"binary_data_size": 8}), tail=b"1234"), "4 bytes are left"),
        (body(one(parameters={"binary_data_size": "8"}), tail=b"12345678"), "binary_data_size '8'"),
        (body(one(parameters={"binary_data_size": 3}), tail=b"123"), "no whole number of FP32"),
        (body(one(data=[1, 2]), tail=b"123"), "3 bytes are left after"),
        (body(one(data=[1, 2]), one(data=[1, 2])), "'A' comes twice"),
        (body(one(datatype="BYTES", parameters={"binary_data_size": 6}), tail=struct.pack("<I2s", 9, b"ab")), "of 9"),
        (body(one(datatype="BYTES", parameters={"binary_data_size": 2}), tail=b"ab"), "ends within a length"),
    ],
)
def test_what_is_wrong_with_a_request_is_said(sent: tuple[bytes, str | None], says: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse_request(*sent, raw_input="WAV")
    assert caught.value.status_code == 400
    caught.match(says)


@given(st.binary(max_size=200), st.one_of(st.none(), st.integers(-1, 250).map(str), st.text(max_size=3)))
def test_any_bytes_are_a_request_or_a_400(content: bytes, header: str | None) -> None:
    try:
        parse_request(content, header, raw_input="WAV")
    except ApiError as error:
        assert error.status_code == 400


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
INPUT = st.fixed_dictionaries(
    {},
    optional={
        "name": st.just("A") | JSON,
        "shape": st.lists(st.integers(-3, 10**30), max_size=3) | JSON,
        "datatype": st.sampled_from(sorted(DTYPES)) | JSON,
        "data": st.lists(JSON, max_size=4) | JSON,
        "parameters": st.fixed_dictionaries({}, optional={"binary_data_size": st.integers(-1, 40) | JSON}) | JSON,
    },
)


@given(st.lists(INPUT, max_size=3), st.binary(max_size=40), JSON)
def test_any_json_is_a_request_or_a_400(inputs: list[Any], tail: bytes, more: Any) -> None:
    content, header = body(*inputs, tail=tail, outputs=more)
    try:
        parse_request(content, header, raw_input="WAV")
    except ApiError as error:
        assert error.status_code == 400
