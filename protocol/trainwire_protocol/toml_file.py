"""TOML files, with the line of each key, which `tomllib` does not report."""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from trainwire_protocol.errors import OptionError

MAX_FILE_BYTES: Final = 1 << 18

Keys: TypeAlias = tuple[str | int, ...]
"""The path of a value: the keys of the tables and the indices in the arrays that contain it, then its own."""

_KEY: Final = re.compile(r""""(?:[^"\\]|\\.)*"|'[^']*'|[A-Za-z0-9_-]+""")
_STRING: Final = re.compile(
    r'''"""(?:[^\\]|\\.)*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:[^"\\]|\\.)*"|'[^']*\'''', re.DOTALL
)  # a multi-line string may end with two quotes before the three that close it
_OTHER_VALUE: Final = re.compile(r"[^,\]}#\n]+")
_BLANK: Final = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")


@dataclass(frozen=True)
class TomlFile:
    """The contents of a TOML file."""

    name: str
    """The file's name in messages."""
    content: dict[str, Any]
    lines: Mapping[Keys, int]
    """The line, from 1, on which each table, key and item of an array is defined first."""

    @classmethod
    def read(cls, path: Path, kind: str) -> TomlFile:
        """Read a file; `kind` says in messages what it is, such as "rules file".

        Raises:
            OptionError: the file cannot be read, or is not TOML; the message gives the line.
        """
        try:
            with path.open("rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
            if len(data) > MAX_FILE_BYTES:
                raise OptionError(f"the {kind} {path} is larger than {MAX_FILE_BYTES} bytes")
            return cls.parse(data.decode(), str(path))
        except OSError as error:
            raise OptionError(f"the {kind} {path} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            raise OptionError(f"{path}:{line}: the {kind} is not UTF-8 (byte {error.start})") from error

    @classmethod
    def parse(cls, text: str, name: str) -> TomlFile:
        """Parse the text of a file, which messages call `name`.

        Raises:
            OptionError: the text is not TOML; the message gives the line.
        """
        try:
            return cls(name, tomllib.loads(text), _Lines(text).found)
        except ValueError as error:
            found = re.search(r"\(at line (\d+), column \d+\)", str(error))
            line = int(found[1]) if found else text.count("\n") + 1
            raise OptionError(f"{name}:{line}: invalid TOML: {error}") from None
        except RecursionError:
            raise OptionError(f"{name}: the tables are nested too deeply") from None

    def line_of(self, keys: Keys) -> int:
        """Return the line of a value; that of the table in which it is missing, if it is."""
        known = (self.lines[keys[:length]] for length in range(len(keys), 0, -1) if keys[:length] in self.lines)
        return next(known, 1)


class _Lines:
    """Finds the line of each key and item in a text that `tomllib` accepts."""

    def __init__(self, text: str) -> None:
        self.found: dict[Keys, int] = {}
        self._text, self._position = text, 0
        self._ends = [match.start() for match in re.finditer("\n", text)]
        self._arrays: dict[Keys, int] = {}
        """The index of the last table so far in each array of tables."""
        self._read()

    def _read(self) -> None:
        table: Keys = ()
        while not self._is_at_end():
            line = self._line()
            if self._take("[["):
                *outer, key = self._keys()
                array = (*self._path((), outer, line), key)
                index = self._arrays[array] = self._arrays.get(array, -1) + 1
                table = (*array, index)
                self.found.setdefault(array, line)
                self.found[table] = line
                self._take("]]")
            elif self._take("["):
                table = self._path((), self._keys(), line)
                self._take("]")
            else:
                self._pair(table)

    def _path(self, path: Keys, keys: list[str], line: int) -> Keys:
        """Return the path of keys below another; in an array of tables, that of its last table."""
        for key in keys:
            path = (*path, key)
            self.found.setdefault(path, line)
            if path in self._arrays:
                path = (*path, self._arrays[path])
        return path

    def _pair(self, table: Keys) -> None:
        line = self._line()
        path = self._path(table, self._keys(), line)
        self._take("=")
        self._value(path)

    def _value(self, path: Keys) -> None:
        if self._take("["):
            index = 0
            while not self._take("]"):
                self.found[(*path, index)] = self._line()
                self._value((*path, index))
                self._take(",")
                index += 1
        elif self._take("{"):
            while not self._take("}"):
                self._pair(path)
                self._take(",")
        elif not self._match(_STRING):
            self._match(_OTHER_VALUE)

    def _keys(self) -> list[str]:
        keys = []
        while key := self._match(_KEY):
            # The parser itself decodes the escapes of a quoted key.
            keys.append(next(iter(tomllib.loads(f"{key} = 0"))) if key[0] in "\"'" else key)
            self._take(".")
        return keys

    def _is_at_end(self) -> bool:
        self._skip_blanks()
        return self._position == len(self._text)

    def _line(self) -> int:
        self._skip_blanks()
        return bisect_left(self._ends, self._position) + 1

    def _take(self, token: str) -> bool:
        """Skip the token if it is next, and return whether it is."""
        self._skip_blanks()
        found = self._text.startswith(token, self._position)
        self._position += len(token) if found else 0
        return found

    def _match(self, pattern: re.Pattern[str]) -> str:
        """Skip what the pattern matches, and return it; an empty string if it does not match."""
        self._skip_blanks()
        match = pattern.match(self._text, self._position)
        self._position = match.end() if match else self._position
        return match[0] if match else ""

    def _skip_blanks(self) -> None:
        match = _BLANK.match(self._text, self._position)
        self._position = match.end() if match else self._position
