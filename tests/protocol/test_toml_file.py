"""TOML files, and the lines of their keys."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainwire_protocol.errors import OptionError
from trainwire_protocol.toml_file import MAX_FILE_BYTES, Keys, TomlFile

WHOLE = r"""# a comment with "quotes" and [brackets]
title = "a # no comment"
'quoted key'."with \"escapes\" \u00e9".last = 1_000
text = '''
[no.table]
x = 1'''
more = '''a''''' # ends with two quotes
escaped = @@@a \
    b" \"c""@@@ # the same
dates = [1979-05-27 07:32:00, 07:32:00,
    -inf, # a comment, with a comma ]
    [1, 2], {a = 3, b.c = [
        4,
    ]},
]
empty = []

[table.'sub table'] # a comment
inline = { x = 1, "y z" = { d = "}" } }
[[plugins]]
name = 'first'
[plugins.ema]
decay = 0.9
[[plugins]]
[[plugins.parts]]
[[plugins.parts]]
x=''
""".replace("@@@", '"""')

LINES: dict[Keys, int] = {
    ("title",): 2,
    ("quoted key", 'with "escapes" é', "last"): 3,
    ("text",): 4,
    ("more",): 7,
    ("escaped",): 8,
    ("dates",): 10,
    ("dates", 1): 10,
    ("dates", 2): 11,
    ("dates", 3, 1): 12,
    ("dates", 4, "a"): 12,
    ("dates", 4, "b", "c", 0): 13,
    ("table", "sub table"): 18,
    ("table", "sub table", "inline", "y z", "d"): 19,
    ("plugins",): 20,
    ("plugins", 0, "ema", "decay"): 23,
    ("plugins", 1): 24,
    ("plugins", 1, "parts", 0): 25,
    ("plugins", 1, "parts", 1, "x"): 27,
}


def paths(content: Any, path: Keys = ()) -> Iterator[Keys]:
    """Yield the path of everything in a value."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from paths(value, (*path, key))


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_each_key_and_item_has_its_line(ends: str) -> None:
    """Tables, arrays of tables, dotted and quoted keys, inline tables and items of arrays are found."""
    file = TomlFile.parse(WHOLE.replace("\n", ends), "whole.toml")
    assert file.content == tomllib.loads(WHOLE)
    assert {keys: file.lines[keys] for keys in LINES} == LINES
    assert set(file.lines) == set(paths(file.content))


def test_the_line_of_a_missing_key_is_that_of_its_table() -> None:
    """A path that the file does not have has the line of the longest part that it has, or the first line."""
    file = TomlFile.parse("\n[rules.x]\nkind = 'a'\n", "r.toml")
    assert file.line_of(("rules", "x", "kind")) == 3
    assert file.line_of(("rules", "x", "level")) == 2
    assert file.line_of(("nowhere",)) == 1


bare = st.text("ab1-_", min_size=1, max_size=3)
keys = bare | bare.map(lambda key: f'"{key}.\\" \\t#"') | st.sampled_from(["''", "'=['", '"\\u00e9"'])
blanks = st.sampled_from(["", " ", "\n", " # [x] = 'y'\n", "\r\n\t"])
scalars = st.sampled_from([
    "1", "-1e-05", "nan", "true", "1979-05-27 07:32:00.5", "1979-05-27T07:32:00Z", "''", '""', '"\\"]#"', "'\\'",
    "''''''", "'''a''b'''''", '"""\n]"" \\"""\\\n  """', '""""""""', "'''\n[[x]]\ny = 1'''",
])  # fmt: skip


@st.composite
def values(draw: st.DrawFn, depth: int = 2) -> str:
    """The text of a value."""
    kind = draw(st.integers(0, 4)) if depth else 2
    if kind == 0:
        items = [draw(blanks) + draw(values(depth - 1)) + draw(blanks) for _ in range(draw(st.integers(0, 3)))]
        return f"[{','.join(items)}{draw(st.sampled_from(['', ','])) if items else ''}{draw(blanks)}]"
    if kind == 1:
        names = draw(st.lists(keys, max_size=3, unique=True))
        return "{ " + ", ".join(f"{name} = {draw(values(depth - 1))}" for name in names) + " }"
    return draw(scalars)


@st.composite
def statements(draw: st.DrawFn) -> str:
    """A pair or the head of a table."""
    path = " . ".join(draw(st.lists(keys, min_size=1, max_size=3)))
    form = draw(st.integers(0, 3))
    if form == 0:
        return draw(st.sampled_from(["[{}]", "[ {} ]", "[[{}]]", "[[ {} ]] # x"])).format(path)
    return f"{path} = {draw(values())}{draw(st.sampled_from(['', ' # x']))}"


@given(st.lists(statements() | blanks, max_size=8))
def test_the_lines_of_any_text(parts: list[str]) -> None:
    """Everything that the parser finds has a line, on which its statement stands; invalid ones are left out."""
    text, first = "", {}
    for part in parts:
        try:
            tomllib.loads(candidate := f"{text}{part}\n")
        except ValueError:
            continue
        before, text = set(TomlFile.parse(text, "x").lines), candidate
        line = text.count("\n") - part.count("\n")
        file = TomlFile.parse(text, "x")
        for path in set(file.lines) - before:
            assert line <= file.lines[path] <= text.count("\n")
            first[path] = file.lines[path]
    file = TomlFile.parse(text, "x")
    assert set(file.lines) == set(paths(file.content))
    assert file.lines == first


@given(st.text(max_size=200) | st.text("[]\"'=.#\n ab{}1,", max_size=60))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    """Any text is parsed, and then every key has a line, or raises OptionError."""
    try:
        file = TomlFile.parse(text, "x.toml")
    except OptionError as error:
        assert str(error).startswith("x.toml:")
    else:
        assert set(file.lines) == set(paths(file.content))


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    """A missing file, a large one, other bytes and wrong syntax are errors with the name and the line."""
    path = tmp_path / "x.toml"
    with pytest.raises(OptionError, match=r"the rules file .*x.toml cannot be read: No such file"):
        TomlFile.read(path, "rules file")
    path.write_bytes(b"a = 1\nb = '\xff'\n")
    with pytest.raises(OptionError, match=r"x.toml:2: the rules file is not UTF-8 \(byte 11\)"):
        TomlFile.read(path, "rules file")
    path.write_bytes(b"a = 1\nb = \n")
    with pytest.raises(OptionError, match=r"x.toml:2: invalid TOML: Invalid value"):
        TomlFile.read(path, "rules file")
    path.write_bytes(b"#" * (MAX_FILE_BYTES + 1))
    with pytest.raises(OptionError, match=r"the rules file .*x\.toml is larger than"):
        TomlFile.read(path, "rules file")
    path.write_bytes(b"a = " + b"[" * 10_000)
    with pytest.raises(OptionError, match="the tables are nested too deeply"):
        TomlFile.read(path, "rules file")
