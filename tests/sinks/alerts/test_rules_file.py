"""The rules file: what it may contain, and how its errors are reported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainwire_protocol.errors import OptionError
from trainwire_protocol.toml_file import MAX_FILE_BYTES
from trainwire_sinks.alerts import rules
from trainwire_sinks.alerts.alert import COMMON_FIELDS, render, template_problem
from trainwire_sinks.alerts.rules.threshold import Threshold
from trainwire_sinks.alerts.rules_file import parse_rules, read_rules
from trainwire_sinks.alerts.settings import settings_of

WHOLE = """
[notifiers.hook]
kind = "webhook"
url = "http://127.0.0.1:1/x"
headers = ["X-Token: ${TRAINWIRE_TEST_TOKEN}"]

[notifiers.program]
kind = "command"
command = ["true"]
timeout = 3

[rules.hot]
kind = "threshold"
metric = "gpu/*/temperature"
operator = ">"
value = 85
events = 3
severity = "critical"
cool_down = 60
message = "{metric} is {value}"
notifiers = ["program", "terminal"]

[rules.dead]
seconds = 60
"""


def test_a_file_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings are read, an integer may stand for a float, and a rule's name may be its kind."""
    monkeypatch.setenv("TRAINWIRE_TEST_TOKEN", "secret")
    file = parse_rules(WHOLE, "rules.toml")
    assert list(file.rules) == ["hot", "dead"]
    assert file.rules["hot"] == Threshold(
        metric="gpu/*/temperature", operator=">", value=85.0, events=3, severity="critical", cool_down=60.0,
        message="{metric} is {value}", notifiers=("program", "terminal"),
    )  # fmt: skip
    assert isinstance(file.rules["hot"].cool_down, float)
    assert file.rules["dead"].kind == "dead"
    assert file.all_notifiers == ("hook", "program")
    assert list(file.notifiers) == ["terminal", "hook", "program"]


def test_without_a_file_there_are_default_rules() -> None:
    """Their alerts go to the terminal, or to the notifiers of a file that has no rules."""
    file = read_rules(None)
    assert set(file.rules) >= {"stalled", "dead", "failed", "finished", "sink-behind", "disk-full"}
    assert file.all_notifiers == ("terminal",)
    own = parse_rules('[notifiers.me]\nkind = "command"\ncommand = ["true"]', "rules.toml")
    assert (list(own.rules), own.all_notifiers) == (list(file.rules), ("me",))


ERRORS = {
    "[rules": r"rules\.toml:1: invalid TOML: ",
    '[rules.a]\nkind = "dead"\n\n[rules.b]\nkind = "ded"': r"rules\.toml:5: unknown kind of rules 'ded' \(did you "
    r"mean dead\?\): the kinds are dead, disk-full, failed, finished, interrupted, not-finite, plateau, sink-behind, ",
    "[rules.dead]\n[rules.oops]\nseconds = 3": r"rules\.toml:2: unknown kind of rules 'oops'",
    "# a\n[rules.dead]\n# b\nsecnds = 3": r"rules\.toml:4: unknown setting 'secnds' \(did you mean seconds\?\): the "
    r"settings of kind dead are cool_down, message, notifiers, seconds, severity",
    '[rules.a]\nkind = "threshold"\nmetric = "x"\nvalue = 1': r"rules\.toml:1: kind threshold requires the setting op",
    '[rules.dead]\nseconds = "3"': r"rules\.toml:2: seconds must be a number, not '3'",
    "[rules.dead]\nseconds = true": r"rules\.toml:2: seconds must be a number, not True",
    "[rules.dead]\nseconds = nan": r"rules\.toml:2: seconds must be a number between .*, not nan",
    "[rules.dead]\nseconds = 0.5": r"rules\.toml:2: seconds must be at least 1, not 0\.5",
    "[rules.stalled]\nfactor = 1" + "0" * 400: r"rules\.toml:2: factor must be a number between .*, not 10+",
    "[rules.stalled]\nfactor = 0x" + "f" * 9999: r"rules\.toml:2: factor must be a number .*, not a very large integer",
    "[rules.stalled]\nfactor = " + "9" * 9999: r"rules\.toml:\d: invalid TOML: ",
    "[rules.dead]\r\n\r\nsecnds = 1": r"rules\.toml:3: unknown setting 'secnds'",
    "# x\n" * 2_000 + "[rules.dead]\nsecnds = 3": r"rules\.toml:2002: unknown setting 'secnds'",
    '[rules.a]\nkind = "spike"\nmetric = "x"\nwindow = 10.0': r"rules\.toml:4: window must be an integer, not 10\.0",
    '[rules.a]\nkind = "spike"\nmetric = "x"\nwindow = 100000': r"rules\.toml:4: window must be at most 10000, not 1",
    '[rules.a]\nkind = "spike"\nmetric = "x"\nthreshold = 0': r"rules\.toml:4: threshold must be above 0, not 0",
    '[rules.dead]\nseverity = "bad"': r"rules\.toml:2: severity must be one of 'info', 'warning', 'critical', not",
    '[rules.dead]\nseverity = ["bad"]': r"rules\.toml:2: severity must be one of .*, not \['bad'\]",
    "[rules.dead]\nmessage = 3": r"rules\.toml:2: message must be a string, not 3",
    '[rules.dead]\nmessage = "{metric}"': r"rules\.toml:2: message: unknown field {metric}: the fields are {rank}, {ru",
    '[rules.dead]\nmessage = "{run.x}"': r"rules\.toml:2: message: unknown field {run\.x}",
    '[rules.dead]\nmessage = "{run!r}"': r"rules\.toml:2: message: the field {run} has a conversion",
    '[rules.dead]\nmessage = "{"': r"rules\.toml:2: message: invalid template",
    '[rules.dead]\nnotifiers = ["me",\n"you"]': r"rules\.toml:2: unknown notifier 'me': .* are terminal",
    '[rules.dead]\nnotifiers = "me"': r"rules\.toml:2: notifiers must be a list of strings, not 'me'",
    "[rules.'a b']\nkind = 'dead'": r"rules\.toml:1: invalid name 'a b': use at most 64 letters",
    "rules = 3": r"rules\.toml:1: rules must consist of tables such as \[rules\.NAME\], not 3",
    "\n[rules]\ndead = 3": r"rules\.toml:3: dead must be a table such as \[rules\.dead\], not 3",
    "[rulse.dead]": r"rules\.toml:1: unknown table 'rulse' \(did you mean rules\?\)",
    '[notifiers.x]\nkind = "mail"': r"rules\.toml:2: unknown kind of notifiers 'mail': the kinds are apprise",
    '[notifiers.x]\nkind = "webhook"\nurl = "ftp://x"': r"rules\.toml:3: url must begin with http://",
    '[notifiers.x]\nkind = "webhook"\nurl = "http://x:y"': r"rules\.toml:3: url must begin with http://",
    '[notifiers.x]\nkind = "webhook"\nurl = "http://x/a b"': r"rules\.toml:3: url must begin with http:// .* no spaces",
    '[notifiers.x]\nkind = "webhook"\nurl = "http://me:pass@x"': r"rules\.toml:3: url must not contain a user",
    '[notifiers.x]\nkind = "webhook"\nurl = "http://x"\nheaders = ["a b"]': r"rules\.toml:4: each header must be",
    '[notifiers.x]\nkind = "webhook"\nurl = "http://x"\nheaders = ["a: b\\n"]': r"rules\.toml:4: each header must be",
    '[notifiers.x]\nkind = "webhook"\nurl = "${NO_SUCH_THING}"': r"rules\.toml:3: url uses the environment variable",
    '[notifiers.x]\nkind = "command"\ncommand = []': r"rules\.toml:3: command does not begin with a program",
    '[notifiers.x]\nkind = "command"\ncommand = ["/no/such"]': r"rules\.toml:3: command does not begin with a program",
}  # fmt: skip


@pytest.mark.parametrize("text", ERRORS)
def test_an_error_names_its_line_and_the_choices(text: str) -> None:
    """The message begins with the file and the line, as those of compilers do, and gives the valid choices."""
    with pytest.raises(OptionError, match=rf"^{ERRORS[text]}"):
        parse_rules(text, "rules.toml")


@pytest.mark.parametrize(
    "settings",
    [
        'kind = "webhook"\nurl = "htp://user:hunter2@x"',
        'kind = "webhook"\nurl = "http://user:hunter2@x"',
        'kind = "webhook"\nurl = ["http://x/hunter2"]',
        'kind = "webhook"\nurl = "http://x"\nheaders = "Authorization: hunter2"',
        'kind = "command"\ncommand = "tell --password hunter2"',
    ],
)
def test_secrets_do_not_appear_in_messages(settings: str) -> None:
    """The message about an invalid setting does not repeat a value that may contain a password."""
    with pytest.raises(OptionError) as raised:
        parse_rules(f"[notifiers.x]\n{settings}", "rules.toml")
    assert "hunter2" not in str(raised.value)


def test_a_file_that_cannot_be_read_is_reported(tmp_path: Path) -> None:
    """The file may be missing, a folder, too large, not UTF-8 or nested too deeply."""
    path = tmp_path / "rules.toml"
    with pytest.raises(OptionError, match="cannot be read: No such file"):
        read_rules(path)
    with pytest.raises(OptionError, match="cannot be read: Is a directory"):
        read_rules(tmp_path)
    path.write_bytes(b"# \n" + b"#\xff\n")
    with pytest.raises(OptionError, match=r"rules\.toml:2: the rules file is not UTF-8"):
        read_rules(path)
    path.write_bytes(b"#" * (MAX_FILE_BYTES + 1))
    with pytest.raises(OptionError, match="is larger than"):
        read_rules(path)
    path.write_text(f"x = {'[' * 5000}")
    with pytest.raises(OptionError, match=r"nested too deeply|invalid TOML"):
        read_rules(path)


NAMES = st.text("abc-", min_size=1, max_size=8)
PLAIN = st.one_of(
    st.integers(), st.floats(), st.booleans(), st.text(max_size=12), st.just("dead"), st.just("{run}"),
    st.lists(st.text(max_size=5), max_size=3), st.lists(st.integers(), max_size=2),
)  # fmt: skip
SETTINGS = sorted({name for kind in rules.KINDS.values() for name in settings_of(kind)})
TABLES = st.dictionaries(st.sampled_from([*SETTINGS, "kind", "url"]) | NAMES, PLAIN, max_size=4)


def as_toml(groups: dict[str, dict[str, dict[str, object]]]) -> str:
    """Return the text of a file with these tables; a JSON string is also a TOML string."""
    lines = []
    for group, tables in groups.items():
        for name, table in tables.items():
            lines += ["", f"[{group}.{json.dumps(name)}]"]
            lines += [f"{json.dumps(key)} = {_value(value)}" for key, value in table.items()]
    return "\n".join(lines)


def _value(value: object) -> str:
    return str(value) if isinstance(value, float) else json.dumps(value)


@given(
    st.fixed_dictionaries(
        {}, optional={
            "rules": st.dictionaries(st.sampled_from(sorted(rules.KINDS)) | NAMES, TABLES, max_size=3),
            "notifiers": st.dictionaries(NAMES, TABLES, max_size=2),
        },
    )
)  # fmt: skip
def test_any_tables_are_parsed_or_rejected_with_a_line(groups: dict[str, dict[str, dict[str, object]]]) -> None:
    """A file with any settings is parsed, or rejected with one of its lines."""
    text = as_toml(groups)
    try:
        file = parse_rules(text, "rules.toml")
    except OptionError as error:
        name, line, _ = str(error).split(":", 2)
        assert name == "rules.toml"
        assert 1 <= int(line) <= text.count("\n") + 1
    else:
        assert {*groups.get("rules", {})} in ({*file.rules}, set())


@given(st.text(max_size=200) | st.text("[]\"'=.#\n rules{}dead1", max_size=60))
def test_any_text_is_parsed_or_rejected(text: str) -> None:
    """Any text is parsed or raises OptionError."""
    try:
        parse_rules(text, "rules.toml")
    except OptionError as error:
        assert str(error).startswith("rules.toml:")


@given(st.text(max_size=30) | st.text("{}runvale!:.[]0", max_size=12), st.text(max_size=20))
def test_any_template_is_rejected_or_renders_one_line(template: str, value: str) -> None:
    """A template either has a problem, or renders any values on one line."""
    if template_problem(template, (*COMMON_FIELDS, "value")) is None:
        fields = {name: value for name in (*COMMON_FIELDS, "value") if name != "time"}
        assert render(template, fields, 0.0).isprintable()
