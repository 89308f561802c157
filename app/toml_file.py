"""Read a TOML file that a person has written: whatever keeps it from being read is a problem with its remedy.

What the tables in it mean, and which error that is, the keyring and the endpoints say themselves.
"""

import tomllib
from pathlib import Path
from typing import Any


class TomlFileError(Exception):
    """A file cannot be read as TOML: what is wrong with it, and what to do, without a value of it."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem}; {remedy}")
        self.problem = problem
        self.remedy = remedy


def read_toml(path: Path, *, if_missing: str, if_no_toml: str) -> dict[str, Any]:
    """Read a file, given the remedies for one that is not there and for one that is not TOML.

    Raises `TomlFileError`.
    """
    try:
        # Editors on Windows begin a file with a byte order mark.
        return tomllib.loads(path.read_text("utf-8-sig"))
    except FileNotFoundError:
        problem, remedy = "does not exist", if_missing
    except OSError as error:
        problem, remedy = f"cannot be read ({error.strerror})", "make it a file that the service's user may read"
    except UnicodeDecodeError:
        problem, remedy = "is not UTF-8", "save it as UTF-8 text"
    except tomllib.TOMLDecodeError as error:
        # The parser's messages quote names and positions, never values.
        problem, remedy = f"is not TOML ({error})", if_no_toml
    raise TomlFileError(problem, remedy)
