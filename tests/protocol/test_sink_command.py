from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainwire_protocol.environment import SinkCommand
from trainwire_protocol.errors import OptionError


@given(st.text(min_size=1), st.lists(st.text(), max_size=3))
def test_what_a_shell_would_take_is_read(name: str, options: list[str]) -> None:
    """Whatever is quoted as for a shell comes out as it went in."""
    assert SinkCommand.parse(shlex.join([name, *options])) == (name, tuple(options))


@pytest.mark.parametrize("text", ["", "  ", "alerts 'open", "alerts \\"])
def test_what_names_no_sink_is_refused(text: str) -> None:
    """No name, and quotes that are not closed, are told with what was given."""
    with pytest.raises(OptionError, match="a sink is a name"):
        SinkCommand.parse(text)
