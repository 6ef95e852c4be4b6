"""What every page has: the head, the colours, and the file that appears in one step."""

from __future__ import annotations

from quiplinalg.files.atomic import check_target, commit, discard, temporary_name

__all__ = ["COLORS", "is_page", "page", "write_page"]

COLORS = """
:root { color-scheme: light dark; --ink: #1d2430; --soft: #667085; --line: #d8dce3; --page: #fff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8ebf0; --soft: #9aa3b2; --line: #3a4150; --page: #14181f; } }
"""


def page(head: str, style: str, body: str) -> str:
    """Return a page; ``head`` has its title."""
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"{head}<style>{COLORS}{style}</style></head><body>{body}</body></html>\n"
    )


def is_page(path: str, mark: str) -> bool:
    """Whether a file is a page with ``mark`` in its head."""
    try:
        with open(path, encoding="utf-8") as file:
            return mark in file.read(1000)
    except (OSError, UnicodeDecodeError):
        return False


def write_page(path: str, text: str) -> None:
    """Write a page in one step; what was there is replaced."""
    target = check_target(path, overwrite=True)
    part = temporary_name(target)
    try:
        part.write_text(text, encoding="utf-8")
        commit(part, target, overwrite=True)
    finally:
        discard(part)
