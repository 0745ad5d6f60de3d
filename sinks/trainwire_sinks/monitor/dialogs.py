"""What is asked of, and told to, the person at the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

_CSS = """
{0} {{ align: center middle; }}
{0} > * {{ width: auto; max-width: 90%; height: auto; max-height: 90%; border: round $primary; padding: 0 1; }}
"""


class Confirmation(ModalScreen[bool]):
    """Asks whether something is to be done; only `y` does it."""

    DEFAULT_CSS = _CSS.format("Confirmation")
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "dismiss(True)", "Yes"),
        Binding("n,escape,q", "dismiss(False)", "No"),
    ]

    def __init__(self, question: str) -> None:
        super().__init__()
        self._question = question

    def compose(self) -> ComposeResult:
        """The question."""
        yield Static(Text(f"{self._question}\n\ny: yes   n: no"))


class Page(ModalScreen[None]):
    """Shows lines until a key is pressed."""

    DEFAULT_CSS = _CSS.format("Page") + "Page Static { width: auto; }"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,a,question_mark,enter", "dismiss(None)", "Close")]

    def __init__(self, title: str, lines: Sequence[str]) -> None:
        super().__init__()
        self._title = title
        self._lines = lines

    def compose(self) -> ComposeResult:
        """The lines."""
        with VerticalScroll() as scroll:
            scroll.border_title = Text(self._title)
            yield Static(Text("\n".join(self._lines)))
