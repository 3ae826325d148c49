"""Lines on the terminal, and its colours: those of the report, by names, whose shades fit light and dark terminals."""

from rich.console import Console
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


def say(line: str) -> None:
    """Print a line on stderr as it is, without markup or a break."""
    Console(stderr=True, theme=THEME).print(line, highlight=False, markup=False, soft_wrap=True)
