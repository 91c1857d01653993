"""Runs a program on a leash: it stops when its parent is gone, and it need not be root.

`python leash.py SIGNAL UID GID PROGRAM ARGUMENT...` replaces itself with the program.

SIGNAL is what the program gets when the parent dies, even by `kill -9` (Linux only).

UID and GID, unless they are `-`, are who it becomes: Postgres refuses to run as root. Giving up
root would also give up reaching a data directory or an interpreter below, say, `/root`; loosening
the modes of other people's directories for that would be worse. So on Linux the program keeps one
capability of root, the right to pass file permissions (`CAP_DAC_OVERRIDE`), and nothing else.

Standard library only: this file is run by its path, before anything is installed or imported.
"""

from __future__ import annotations

import ctypes
import os
import sys

_PR_SET_PDEATHSIG = 1
_PR_SET_KEEPCAPS = 8
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_CAP_DAC_OVERRIDE = 1
_LINUX_CAPABILITY_VERSION_3 = 0x20080522


def main(arguments: list[str]) -> None:
    """Become who `arguments` say, tie this process to its parent, and run the program."""
    signal_number, uid, gid, *command = arguments
    parent = os.getppid()
    is_linux = sys.platform == "linux"
    libc = ctypes.CDLL(None, use_errno=True) if is_linux else None
    if uid != "-":
        if libc:
            libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0)
        os.setgroups([])
        os.setgid(int(gid))
        os.setuid(int(uid))
        if libc:
            _keep_file_access(libc)
    if libc:
        # After the change of user, which clears it.
        libc.prctl(_PR_SET_PDEATHSIG, int(signal_number), 0, 0, 0)
        if os.getppid() != parent:
            sys.exit(f"{command[0]}: the parent was gone before the start")
    os.execv(command[0], command)


def _keep_file_access(libc: ctypes.CDLL) -> None:
    # Where a container forbids this, the program runs without, and says which file it cannot read.
    header = (ctypes.c_uint32 * 2)(_LINUX_CAPABILITY_VERSION_3, 0)
    bit = 1 << _CAP_DAC_OVERRIDE
    sets = (ctypes.c_uint32 * 6)(bit, bit, bit, 0, 0, 0)
    if libc.capset(header, sets) == 0:
        libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, _CAP_DAC_OVERRIDE, 0, 0)


if __name__ == "__main__":
    main(sys.argv[1:])
