"""What oxmgr sends over a socket: a length (4 bytes, big-endian) and that many bytes of msgpack."""

FRAME_LIMIT = 16 * 1024 * 1024
PROTOCOL = 1


class TooLarge(ValueError):
    """The message does not fit into a frame."""


def frame(payload: bytes) -> bytes:
    """TooLarge when the payload is over FRAME_LIMIT."""
    if len(payload) > FRAME_LIMIT:
        raise TooLarge(f"a message of {len(payload)} bytes is over the limit of {FRAME_LIMIT}")
    return len(payload).to_bytes(4, "big") + payload
