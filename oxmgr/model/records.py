"""What oxmgr writes to files, as pure functions.

A file starts with a line that names its kind and format, for people and later versions. Behind it are records:
a mark, a length, a CRC-32 (4 bytes each, big-endian) and the payload, so that a torn or rotten record is found and
those behind it are found again.
"""

from binascii import crc32

FORMAT = 1
# 0xc1 is the one byte that msgpack never uses (msgpack specification, "never used").
MARK = b"\xc1OX\n"


class Newer(ValueError):
    """A later version of oxmgr wrote the file."""


def file_header(kind: str) -> bytes:
    return f"oxmgr {kind} {FORMAT}\n".encode()


def record(payload: bytes) -> bytes:
    return MARK + len(payload).to_bytes(4, "big") + crc32(payload).to_bytes(4, "big") + payload


def read_records(kind: str, data: bytes) -> tuple[list[bytes], str | None, int]:
    """The good records of a file of that kind, what is wrong with the rest (None: nothing), and where the
    last good byte ends.

    A bad record is skipped: the next one is found by its mark. Raises Newer when the header names a later
    format. A header that is not ours makes everything bad.
    """
    line, newline, _ = data.partition(b"\n")
    words = line.split(b" ")
    number = int(words[2]) if len(words) == 3 and words[2].isdigit() else 0
    if not newline or words[:2] != [b"oxmgr", kind.encode()] or number < 1:
        return [], f"it does not start with 'oxmgr {kind}'", 0
    if number > FORMAT:
        raise Newer(f"it has format {number}, this version of oxmgr reads up to {FORMAT}")
    at = good = len(line) + 1
    found: list[bytes] = []
    wrong: str | None = None
    while at < len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "big")
        payload = data[at + 12 : at + 12 + size]
        whole = data[at : at + 4] == MARK and len(data) - at >= 12 and len(payload) == size
        if whole and crc32(payload) == int.from_bytes(data[at + 8 : at + 12], "big"):
            found.append(payload)
            at = good = at + 12 + size
            continue
        wrong = wrong or f"a record is damaged or cut off at byte {at}"
        at = data.find(MARK, at + 1)
        if at < 0:
            break
    return found, wrong, good
