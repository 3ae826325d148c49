"""Colours of the terminal: those of the report, by names, whose shades fit light and dark terminals."""

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
