"""deny.py ERRNO NAME,NAME… COMMAND…: runs a command for which, and for all below it, these system calls fail so.

A filter of seccomp(2), as container runtimes install them. Nothing else changes: no_new_privs stays off, for root.
"""

import ctypes
import errno
import os
import struct
import sys

# The same on every architecture, for they are newer than the tables' unification.
NUMBERS = {"pidfd_open": 434, "clone3": 435, "close_range": 436, "mount_setattr": 442}

# linux/filter.h, linux/seccomp.h, linux/prctl.h
LOAD_WORD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, FAIL_WITH = 0x7FFF0000, 0x00050000
PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2


class Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def deny(numbers: list[int], error: int) -> None:
    code = [(LOAD_WORD, 0, 0, 0)]
    code += [(JUMP_IF_EQUAL, len(numbers) - at, 0, number) for at, number in enumerate(numbers)]
    code += [(RETURN, 0, 0, ALLOW), (RETURN, 0, 0, FAIL_WITH | error)]
    data = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *one) for one in code))
    program = Program(len(code), ctypes.addressof(data))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program)):
        raise OSError(ctypes.get_errno(), "seccomp")


if __name__ == "__main__":
    deny([NUMBERS[name] for name in sys.argv[2].split(",")], getattr(errno, sys.argv[1]))
    os.execvp(sys.argv[3], sys.argv[3:])
