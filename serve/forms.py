"""Forms with a file. Small ones as clients usually write them are cut up here, all others by Starlette."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import Request
from starlette.datastructures import UploadFile

SMALL_BYTES = 2**20
MOST_PARTS = 64
CONTENT_TYPE = re.compile(r'multipart/form-data; ?boundary=("?)([0-9A-Za-z\'()+_,./:=?-]{1,70})\1')
PART_HEAD = re.compile(
    rb'content-disposition: ?form-data; name="([^"\\%\0-\x1f\x7f]*)"(?:; filename="([^"\\%\0-\x1f\x7f]*)")?'
    rb"(?:\r\ncontent-type: ?[ -~]*)?",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class FormFile:
    """A file in a form."""

    filename: str
    content: bytes


FormItem = tuple[str, str | FormFile]


async def read_form(request: Request, *, max_file_bytes: int) -> Sequence[FormItem]:
    """Names and values in their order.

    Args:
        request: Its body may be up to `max_file_bytes` and more; that is not checked here.
        max_file_bytes: Of a larger file one byte more than this is read.

    Raises:
        HTTPException: 400, it is no form.
    """
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) <= SMALL_BYTES:
        usual = usual_form(await request.body(), request.headers.get("content-type", ""))
        if usual is not None:
            return usual
    items: list[FormItem] = []
    for name, value in (await request.form()).multi_items():
        if isinstance(value, UploadFile):
            items.append((name, FormFile(value.filename or "", await value.read(max_file_bytes + 1))))
        else:
            items.append((name, value))
    return items


def usual_form(body: bytes, content_type: str) -> list[FormItem] | None:
    """The items of a form that is written in the usual way, without looking at each of its bytes; None for all others.

    What Starlette takes otherwise or refuses must be None here: escapes, other headers, text around the parts.
    """
    said = CONTENT_TYPE.fullmatch(content_type)
    if said is None:
        return None
    opening = b"--" + said[2].encode()
    if not body.startswith(opening):
        return None
    *pieces, end = body[len(opening) :].split(b"\r\n" + opening)
    if end not in (b"--", b"--\r\n") or len(pieces) > MOST_PARTS:
        return None
    items = [_usual_item(piece) for piece in pieces]
    usual = [item for item in items if item is not None]
    return usual if len(usual) == len(items) else None


def _usual_item(piece: bytes) -> FormItem | None:
    end = piece.find(b"\r\n\r\n")
    head = PART_HEAD.fullmatch(piece, 2, end) if piece.startswith(b"\r\n") and end >= 0 else None
    if head is None:
        return None
    try:
        name = head[1].decode()
        if head[2] is not None:
            return name, FormFile(head[2].decode(), piece[end + 4 :])
        return name, piece[end + 4 :].decode()
    except UnicodeDecodeError:
        return None
