"""Colours of the terminal: the report's, by the names that every light or dark terminal has its own shade of."""

from rich.theme import Theme

THEME = Theme(
    {
        "bar.complete": "blue",
        "bar.finished": "green",
        "bar.pulse": "blue",
        "progress.remaining": "default",
        "progress.download": "default",
        "status.spinner": "blue",
    }
)
