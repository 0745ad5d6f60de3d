"""The field into which the text is typed that names or lines have to hold."""

from __future__ import annotations

from textual.widgets import Input


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
