"""The widgets of the terminal app, apart from its plots: a list of metrics, an input field, and dialogs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final

from rich.cells import set_cell_size
from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.events import Click
from textual.geometry import Region, Size
from textual.message import Message
from textual.screen import ModalScreen
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.widgets import Input, Static

from trainwire_sinks.text.format import one_line

VALUE_CELLS: Final = 10
"""Width of the latest value."""

_DIALOG_CSS: Final = """
{0} {{ align: center middle; }}
{0} > * {{ width: auto; max-width: 90%; height: auto; max-height: 90%; border: round $primary; padding: 0 1; }}
"""


class MetricList(ScrollView, can_focus=True):
    """A line for each metric: a mark, its name, its latest value. Draws only the visible lines.

    The mark is a filled circle if the metric is plotted, and an open one if it is selected but its plot does not fit.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "move(-1)", "Up", show=False),
        Binding("down", "move(1)", "Down", show=False),
        Binding("pageup", "page(-1)", "Page up", show=False),
        Binding("pagedown", "page(1)", "Page down", show=False),
        Binding("home", "move(-1000000)", "First", show=False),
        Binding("end", "move(1000000)", "Last", show=False),
        Binding("space,enter", "toggle_plot", "Plot or remove", show=False),
    ]

    class Toggled(Message):
        """The user has selected a metric to plot, or a plotted one to remove."""

        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

    def __init__(self, id: str) -> None:
        super().__init__(id=id)
        self.rows: Sequence[tuple[str, str]] = ()
        """Name and latest value of each metric."""
        self.plotted: frozenset[str] = frozenset()
        self.hidden: frozenset[str] = frozenset()
        self.cursor = 0

    def show(self, rows: Sequence[tuple[str, str]], plotted: frozenset[str], hidden: frozenset[str]) -> None:
        """Show these metrics, of which some are plotted, and others are selected but hidden."""
        if (rows, plotted, hidden) == (self.rows, self.plotted, self.hidden):
            return
        self.rows, self.plotted, self.hidden = rows, plotted, hidden
        self.cursor = max(0, min(self.cursor, len(rows) - 1))
        self.virtual_size = Size(0, len(rows))  # never scrolls sideways
        self.refresh()

    def render_line(self, y: int) -> Strip:
        """Return the visible line at `y`."""
        row, width = y + self.scroll_offset.y, self.scrollable_content_region.width
        if row >= len(self.rows):
            return Strip.blank(width, self.rich_style)
        name, value = self.rows[row]
        mark = "●" if name in self.plotted else "○" if name in self.hidden else " "
        style = self.rich_style + Style(bold=name in self.plotted, reverse=row == self.cursor and self.has_focus)
        shown = shorten(name, max(1, width - VALUE_CELLS - 3))
        text = f"{mark} {shown} {value[:VALUE_CELLS]:>{VALUE_CELLS}}"
        return Strip([Segment(set_cell_size(text, width), style)])

    def on_click(self, event: Click) -> None:
        """Plot the metric that was clicked, or remove its plot."""
        offset = event.get_content_offset(self)
        row = offset.y + self.scroll_offset.y if offset else len(self.rows)
        if row < len(self.rows):
            self.cursor = row
            self.action_toggle_plot()

    def action_move(self, lines: int) -> None:
        """Move the cursor by some lines."""
        self.cursor = max(0, min(len(self.rows) - 1, self.cursor + lines))
        self.scroll_to_region(Region(0, self.cursor, 1, 1), animate=False)
        self.refresh()

    def action_page(self, pages: int) -> None:
        """Move the cursor by the height of the list."""
        self.action_move(pages * self.size.height)

    def action_toggle_plot(self) -> None:
        """Plot the metric at the cursor, or remove its plot."""
        if self.rows:
            self.post_message(self.Toggled(self.rows[self.cursor][0]))
            self.refresh()


def shorten(name: str, cells: int) -> str:
    """Return a name in exactly `cells` cells; a longer name keeps its end, where similar names differ."""
    text = one_line(name)
    if len(text) > cells:
        text = "…" + text[1 - cells :] if cells > 1 else "…"
    return set_cell_size(text, cells)


class FilterField(Input):
    """An input field that is visible only while the user types; it keeps its value."""

    DEFAULT_CSS = "FilterField { display: none; height: 1; border: none; padding: 0 1; }"

    @property
    def is_open(self) -> bool:
        """Whether the field is visible."""
        return self.display

    def open(self) -> None:
        """Show the field and give it the focus."""
        self.display = True
        # `Input.focus` would wait for the event loop, and the next keys would be lost to the list.
        self.screen.set_focus(self)

    def close(self) -> None:
        """Hide the field."""
        self.display = False


class Confirmation(ModalScreen[bool]):
    """Asks for confirmation; only `y` confirms."""

    DEFAULT_CSS = _DIALOG_CSS.format("Confirmation")
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "dismiss(True)", "Yes"),
        Binding("n,escape,q", "dismiss(False)", "No"),
    ]

    def __init__(self, question: str) -> None:
        super().__init__()
        self._question = question

    def compose(self) -> ComposeResult:
        """Yield the question."""
        yield Static(Text(f"{self._question}\n\ny: yes   n: no"))


class Page(ModalScreen[None]):
    """Shows lines of text until it is closed."""

    DEFAULT_CSS = _DIALOG_CSS.format("Page") + "Page Static { width: auto; }"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,a,question_mark,enter", "dismiss(None)", "Close")]

    def __init__(self, title: str, lines: Sequence[str]) -> None:
        super().__init__()
        self._title = title
        self._lines = lines

    def compose(self) -> ComposeResult:
        """Yield the lines."""
        with VerticalScroll() as scroll:
            scroll.border_title = Text(self._title)
            yield Static(Text("\n".join(self._lines)))
