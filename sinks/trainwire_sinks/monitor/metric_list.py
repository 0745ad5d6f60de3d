"""The list of metrics: which are shown, and their latest values. Draws only the lines that can be seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.cells import set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.events import Click
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.widgets import Input

from trainwire_sinks.text.format import one_line

VALUE_CELLS = 10
"""Width of the latest value."""


class MetricList(ScrollView, can_focus=True):
    """A line for each metric: whether it is shown, its name, its latest value."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "move(-1)", "Up", show=False),
        Binding("down", "move(1)", "Down", show=False),
        Binding("pageup", "page(-1)", "Page up", show=False),
        Binding("pagedown", "page(1)", "Page down", show=False),
        Binding("home", "move(-1000000)", "First", show=False),
        Binding("end", "move(1000000)", "Last", show=False),
        Binding("space,enter", "choose", "Show or hide", show=False),
    ]

    class Chosen(Message):
        """A metric is to be shown, or no longer."""

        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

    def __init__(self, id: str) -> None:
        super().__init__(id=id)
        self.rows: Sequence[tuple[str, str]] = ()
        """Each metric's name, as it was recorded, and its latest value."""
        self.chosen: frozenset[str] = frozenset()
        self.cursor = 0

    def show(self, rows: Sequence[tuple[str, str]], chosen: frozenset[str]) -> None:
        """Show these metrics."""
        if (rows, chosen) == (self.rows, self.chosen):
            return
        self.rows, self.chosen = rows, chosen
        self.cursor = max(0, min(self.cursor, len(rows) - 1))
        self.virtual_size = Size(self.size.width, len(rows))
        self.refresh()

    def render_line(self, y: int) -> Strip:
        """The line at `y` of what can be seen."""
        place, width = y + self.scroll_offset.y, self.size.width
        if place >= len(self.rows):
            return Strip.blank(width, self.rich_style)
        name, value = self.rows[place]
        is_chosen = name in self.chosen
        cells = max(1, width - VALUE_CELLS - 3)
        style = self.rich_style + Style(bold=is_chosen, reverse=place == self.cursor and self.has_focus)
        text = f"{'● ' if is_chosen else '  '}{shorten(name, cells)} {value[:VALUE_CELLS]:>{VALUE_CELLS}}"
        return Strip([Segment(set_cell_size(text, width), style)])

    def on_click(self, event: Click) -> None:
        """Show or hide the metric that was clicked on."""
        inside = event.get_content_offset(self)
        place = inside.y + self.scroll_offset.y if inside else len(self.rows)
        if place < len(self.rows):
            self.cursor = place
            self.action_choose()

    def action_move(self, lines: int) -> None:
        """Move the cursor."""
        self.cursor = max(0, min(len(self.rows) - 1, self.cursor + lines))
        self.scroll_to_region(Region(0, self.cursor, 1, 1), animate=False)
        self.refresh()

    def action_page(self, pages: int) -> None:
        """Move the cursor by what can be seen at once."""
        self.action_move(pages * self.size.height)

    def action_choose(self) -> None:
        """Show or hide the metric at the cursor."""
        if self.rows:
            self.post_message(self.Chosen(self.rows[self.cursor][0]))
            self.refresh()


def shorten(name: str, cells: int) -> str:
    """A name in so many cells: of a longer one the end is kept, which tells it from its neighbours."""
    text = one_line(name)
    if len(text) > cells:
        text = "…" + text[1 - cells :] if cells > 1 else "…"
    return set_cell_size(text, cells)


class FilterField(Input):
    """A line that is there only while somebody types; what was typed stays its value."""

    DEFAULT_CSS = "FilterField { display: none; height: 1; border: none; padding: 0 1; }"

    @property
    def is_open(self) -> bool:
        """Whether somebody types into it."""
        return self.display

    def open(self) -> None:
        """Have it filled in."""
        self.display = True
        # At once, and not when the loop has time: what is typed next belongs here.
        self.screen.set_focus(self)

    def close(self) -> None:
        """Hide it, and keep what was typed."""
        self.display = False
