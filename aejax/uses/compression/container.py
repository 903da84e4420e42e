"""A compressed file: magic, version, header as deflated JSON, payload, and the SHA-256 of all before it."""

import hashlib
import json
import zlib
from typing import Any

from aejax.errors import InputError

MAGIC, VERSION = b"\x89AEJAX\r\n", 1
DIGEST = 8  # leading bytes of a SHA-256
START = len(MAGIC) + 5  # the version in one byte, the length of the header in four


def pack(header: dict[str, Any], payload: bytes) -> bytes:
    """The bytes of a file."""
    text = zlib.compress(json.dumps(header, separators=(",", ":")).encode(), 9)
    body = MAGIC + bytes([VERSION]) + len(text).to_bytes(4, "little") + text + payload
    return body + digest(body)


def unpack(content: bytes, name: str) -> tuple[dict[str, Any], bytes]:
    """Header and payload of a file; raises InputError, which begins with `name`, unless every byte is as written."""
    if not content.startswith(MAGIC):
        raise InputError(f"{name}: is no file of aejax.compress")
    body = content[:-DIGEST]
    if len(content) < START + DIGEST or content[-DIGEST:] != digest(body):
        raise InputError(f"{name}: is truncated or altered: its checksum does not fit; compress the data again")
    if body[len(MAGIC)] != VERSION:
        raise InputError(
            f"{name}: has version {body[len(MAGIC)]} of the format; this aejax reads {VERSION}; take the aejax that "
            "wrote it"
        )
    end = START + int.from_bytes(body[len(MAGIC) + 1 : START], "little")
    header: dict[str, Any] = json.loads(zlib.decompress(body[START:end]))
    return header, body[end:]


def digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()[:DIGEST]
