"""Keep the files of an SQLite database private to the account that the service runs as.

Secrets in it are sealed, but who has authorized what is not.
"""

import os
from pathlib import Path

#: Its journal, and the index of that. SQLite gives them the mode that the file has as it makes them.
_SUFFIXES = ("", "-wal", "-shm")

_OWNER_ONLY = 0o600
_OTHERS = 0o007


def make_private(file: Path) -> None:
    """Make the file of a database if there is none, readable by its owner alone.

    Where it cannot be made, connecting to it says why.
    """
    try:
        os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_RDWR, _OWNER_ONLY))
    except OSError:
        return


def tighten(file: Path) -> bool:
    """Make a database private whose files every account can use, and say whether it is private now.

    Files that an operator has opened to a group are left as they are; what is open to everybody came so from a umask.
    """
    is_private = True
    for suffix in _SUFFIXES:
        path = file.with_name(file.name + suffix)
        try:
            if path.stat().st_mode & _OTHERS:
                path.chmod(_OWNER_ONLY)
        except FileNotFoundError:
            continue
        except OSError:
            is_private = False
    return is_private
