import asyncio
from collections.abc import Sequence
from typing import Any

import httpx
import pytest
from fastapi import Request
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException

from serve.forms import FormFile, FormItem, read_form, usual_form

BOUNDARY = "b0undary"
USUAL = (
    b"--b0undary\r\n"
    b'Content-Disposition: form-data; name="model"\r\n\r\njasper\r\n'
    b"--b0undary\r\n"
    b'Content-Disposition: form-data; name="file"; filename="a.wav"\r\nContent-Type: audio/x-wav\r\n\r\n'
    b"RIFF\r\n\r\n--b0und\x00\r\n--b0undary--\r\n"
)


def request(body: bytes, content_type: str, *, chunk: int = 7, with_length: bool = True) -> Request:
    chunks = [body[start : start + chunk] for start in range(0, len(body), chunk)]

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": chunks.pop(0) if chunks else b"", "more_body": bool(chunks)}

    headers = [(b"content-type", content_type.encode())]
    headers += [(b"content-length", str(len(body)).encode())] if with_length else []
    return Request({"type": "http", "method": "POST", "headers": headers}, receive)


def read(body: bytes, content_type: str, **how: Any) -> Sequence[FormItem]:
    return asyncio.run(read_form(request(body, content_type, **how), max_file_bytes=1000))


def starlette(body: bytes, content_type: str) -> Sequence[FormItem] | None:
    """What it reads without our help; None if it refuses."""
    try:
        return read(body, content_type, with_length=False)
    except (HTTPException, MultiPartException, UnicodeError):
        return None


def test_what_httpx_writes_is_read_here() -> None:
    files = {"file": ("speech.wav", b"\r\n--\x00\xff" * 50)}
    written = httpx.Request("POST", "http://x/", files=files, data={"model": "jasper", "include[]": ["a", "b"]})
    expected = [("model", "jasper"), ("include[]", "a"), ("include[]", "b")]
    read_here = usual_form(written.read(), written.headers["content-type"])
    assert read_here == [*expected, ("file", FormFile("speech.wav", b"\r\n--\x00\xff" * 50))]


@pytest.mark.parametrize("quote", ["", '"'])
def test_the_usual_form_is_read_with_and_without_starlette(quote: str) -> None:
    kind = f"multipart/form-data; boundary={quote}{BOUNDARY}{quote}"
    expected = [("model", "jasper"), ("file", FormFile("a.wav", b"RIFF\r\n\r\n--b0und\x00"))]
    assert usual_form(USUAL, kind) == expected
    assert read(USUAL, kind) == read(USUAL, kind, with_length=False) == expected


PIECES = [
    b"--b0undary", b"\r\n", b"--", b"\r\n\r\n", b'Content-Disposition: form-data; name="a"', b"; filename=",
    b'"x.wav"', b"; filename*=utf-8''y", b'"x\\"y"', b"content-type: text/plain; charset=latin-1", b"X-Other: 1",
    b" ", b"\t", b"%22", b"\xff", b"\xc3\xa4", b"value", b"\n", b"\x00", b"--b0undary\r\n", b"\r\n--b0undary--",
    b"\r\n--b0undary--\r\n", b"",
]  # fmt: skip


@given(st.lists(st.sampled_from(PIECES), max_size=14), st.sampled_from(["", '"']))
@example([b"--b0undary\r\n", PIECES[4], b"\r\n\r\n", b"value", b"\r\n--b0undary--"], "")
@example([b"--b0undary\r\n", PIECES[4], b"\r\n\r\n", b"\r\n--b0undary", b"value", b"\r\n--b0undary--"], "")
def test_whatever_is_read_here_starlette_reads_alike(pieces: list[bytes], quote: str) -> None:
    body, kind = b"".join(pieces), f"multipart/form-data; boundary={quote}{BOUNDARY}{quote}"
    mine = usual_form(body, kind)
    if mine is not None:
        assert mine == starlette(body, kind)


@given(st.integers(0, len(USUAL)), st.integers(0, 3), st.sampled_from(PIECES))
@example(USUAL.index(b"odel"), 0, b"\r\n")
@example(USUAL.index(b".wav"), 0, b"\r\n")
@example(USUAL.index(b".wav"), 0, b"\x00")
def test_a_form_that_was_damaged_is_read_as_starlette_reads_it(start: int, cut: int, put: bytes) -> None:
    body = USUAL[:start] + put + USUAL[start + cut :]
    kind = f"multipart/form-data; boundary={BOUNDARY}"
    mine = usual_form(body, kind)
    if mine is not None:
        assert mine == starlette(body, kind)


@pytest.mark.parametrize("kind", ["", "text/plain", "multipart/form-data", "multipart/form-data; boundary=a; b=c"])
def test_other_content_types_are_left_to_starlette(kind: str) -> None:
    assert usual_form(USUAL, kind) is None


def test_of_a_file_that_is_too_large_no_more_is_read_than_tells_so() -> None:
    body = USUAL.replace(b"RIFF", b"RIFF" * 1000)
    kind = f"multipart/form-data; boundary={BOUNDARY}"
    file = dict(read(body, kind, with_length=False, chunk=10_000))["file"]
    assert isinstance(file, FormFile) and len(file.content) == 1001
