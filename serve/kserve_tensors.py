"""Requests and replies of the KServe v2 protocol: JSON, and its binary tensor extension. Bytes in, arrays out."""

import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import BaseModel, Field, ValidationError

from serve.errors import ApiError

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    **{f"{sign}INT{bits}": np.dtype(f"<{kind}{bits // 8}") for sign, kind in (("", "i"), ("U", "u"))
       for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": np.dtype(f"<f{bits // 8}") for bits in (16, 32, 64)},
    "BYTES": np.dtype(object),
}  # fmt: skip
MAX_DIMENSIONS = 4
BINARY_HEADER = "Inference-Header-Content-Length"


@dataclass(frozen=True)
class WantedOutput:
    """An output that a client asks for."""

    name: str
    binary: bool


@dataclass(frozen=True)
class InferRequest:
    """What a client sent."""

    id: str | None
    inputs: Mapping[str, np.ndarray]
    datatypes: Mapping[str, str]
    outputs: tuple[WantedOutput, ...] | None
    """None asks for all."""
    binary: bool
    """Whether outputs that are not named come as binary tensors."""


class _Input(BaseModel):
    name: str
    shape: list[int] = Field(max_length=MAX_DIMENSIONS)
    datatype: str
    parameters: dict[str, Any] = {}
    data: Any = None


class _Output(BaseModel):
    name: str
    parameters: dict[str, Any] = {}


class _Header(BaseModel):
    id: str | None = None
    parameters: dict[str, Any] = {}
    inputs: list[_Input] = Field(min_length=1, max_length=16)
    outputs: list[_Output] | None = Field(None, max_length=16)


def parse_request(body: bytes, header_length: str | None, *, raw_input: str) -> InferRequest:
    """Read the body of an inference request.

    Args:
        body: As it came.
        header_length: The HTTP header `Inference-Header-Content-Length`, if there is one; 0 means that the body is
            nothing but one element of one input.
        raw_input: The name of that input.

    Raises:
        ApiError: 400; says what is wrong with which tensor.
    """
    if header_length is None:
        return _request(body, memoryview(b""))
    if not header_length.isdecimal() or not int(header_length) <= len(body):
        raise _bad(f"{BINARY_HEADER} must be from 0 to the body's {len(body)} bytes, got {header_length!r}")
    if int(header_length) == 0:
        only = np.array([[body]], dtype=object)
        return InferRequest(None, {raw_input: only}, {raw_input: "BYTES"}, None, True)
    return _request(body[: int(header_length)], memoryview(body)[int(header_length) :])


def encode_reply(
    model: str, version: str, request: InferRequest, outputs: Mapping[str, tuple[str, np.ndarray]]
) -> tuple[bytes, int | None]:
    """The body of a reply, and the length of its JSON if tensors follow it.

    Args:
        model: Its name.
        version: Its version.
        request: Says which outputs are wanted, and how.
        outputs: Datatype and array of each output there is.

    Raises:
        ApiError: 400; there is no such output.
    """
    wanted = request.outputs or tuple(WantedOutput(name, request.binary) for name in outputs)
    described, tail = [], []
    for one in wanted:
        if one.name not in outputs:
            raise _bad(f"there is no output {one.name!r}: there are {', '.join(outputs)}")
        datatype, array = outputs[one.name]
        output: dict[str, Any] = {"name": one.name, "datatype": datatype, "shape": list(array.shape)}
        if one.binary:
            tail.append(_to_bytes(datatype, array))
            output["parameters"] = {"binary_data_size": len(tail[-1])}
        else:
            flat = array.reshape(-1).tolist()
            output["data"] = [value.decode() for value in flat] if datatype == "BYTES" else flat
        described.append(output)
    reply: dict[str, Any] = {"model_name": model, "model_version": version, "outputs": described}
    if request.id is not None:
        reply["id"] = request.id
    header = json.dumps(reply).encode()
    return b"".join([header, *tail]), len(header) if tail else None


def _request(head: bytes, tail: memoryview) -> InferRequest:
    try:
        header = _Header.model_validate(json.loads(head))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise _bad(f"{place or 'the request'}: {first['msg']}") from error
    except (ValueError, RecursionError) as error:
        raise _bad(f"the request is not JSON: {error}") from error
    inputs, datatypes = {}, {}
    for one in header.inputs:
        if one.name in inputs:
            raise _bad(f"input {one.name!r} comes twice")
        size = one.parameters.get("binary_data_size")
        if size is None:
            inputs[one.name] = _from_json(one)
        else:
            if not isinstance(size, int) or not 0 <= size <= len(tail):
                raise _bad(f"{one.name}: binary_data_size {size!r}, but {len(tail)} bytes are left")
            inputs[one.name] = _from_bytes(one, tail[:size])
            tail = tail[size:]
        datatypes[one.name] = one.datatype
    if len(tail):
        raise _bad(f"{len(tail)} bytes are left after the last tensor")
    outputs = None
    if header.outputs:
        outputs = tuple(WantedOutput(one.name, one.parameters.get("binary_data") is True) for one in header.outputs)
    return InferRequest(header.id, inputs, datatypes, outputs, header.parameters.get("binary_data_output") is True)


def _from_json(one: _Input) -> np.ndarray:
    dtype = _dtype(one)
    if not isinstance(one.data, list):
        raise _bad(f"{one.name}: data must be a list, or parameters.binary_data_size must tell its bytes")
    try:
        values = np.array(one.data, dtype=dtype).reshape(-1)
    except (ValueError, TypeError, OverflowError) as error:
        raise _bad(f"{one.name}: data is not {one.datatype}: {error}") from error
    if one.datatype == "BYTES":
        if not all(isinstance(value, str) for value in values):
            raise _bad(f"{one.name}: data of BYTES must be strings; send bytes that are no text as a binary tensor")
        values = _objects([value.encode(errors="surrogatepass") for value in values])
    return _shaped(one, values)


def _from_bytes(one: _Input, content: memoryview) -> np.ndarray:
    dtype = _dtype(one)
    if one.datatype == "BYTES":
        return _shaped(one, _objects(_elements(one.name, content)))
    if len(content) % dtype.itemsize:
        raise _bad(f"{one.name}: {len(content)} bytes are no whole number of {one.datatype}")
    return _shaped(one, np.frombuffer(content, dtype=dtype))


def _elements(name: str, content: memoryview) -> list[bytes]:
    """Elements of a BYTES tensor: 4 bytes of length before each."""
    elements, position = [], 0
    while position < len(content):
        if position + 4 > len(content):
            raise _bad(f"{name}: a BYTES tensor ends within a length")
        (size,) = struct.unpack_from("<I", content, position)
        position += 4
        if position + size > len(content):
            raise _bad(f"{name}: a BYTES element of {size} bytes, but {len(content) - position} are left")
        elements.append(bytes(content[position : position + size]))
        position += size
    return elements


def _shaped(one: _Input, values: np.ndarray) -> np.ndarray:
    if any(length < 0 for length in one.shape) or math.prod(one.shape) != len(values):
        raise _bad(f"{one.name}: shape {one.shape} does not hold the {len(values)} elements that were sent")
    return values.reshape(one.shape)


def _dtype(one: _Input) -> "np.dtype[Any]":
    if one.datatype not in DTYPES:
        raise _bad(f"{one.name}: datatype {one.datatype!r} is not known: use {', '.join(DTYPES)}")
    return DTYPES[one.datatype]


def _objects(values: Sequence[bytes]) -> np.ndarray:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def _to_bytes(datatype: str, array: np.ndarray) -> bytes:
    if datatype == "BYTES":
        return b"".join(struct.pack("<I", len(value)) + value for value in array.reshape(-1).tolist())
    return np.ascontiguousarray(array, dtype=DTYPES[datatype]).tobytes()


def _bad(message: str) -> ApiError:
    return ApiError(400, message)
