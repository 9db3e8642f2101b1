"""What GitHub Actions shows of a run: annotations, and the summary of the job; elsewhere nothing is said."""

from __future__ import annotations

import os
import sys
from pathlib import Path

SUMMARY_BYTES = 1_000_000
"""A little less than what a step may add to the summary of its job (1 MiB); more, and nothing of it is shown."""


def annotate(title: str, message: str, level: str = "error") -> None:
    """Show a line beside the job, when this is one.

    Source: docs.github.com, Workflow commands for GitHub Actions; lines on stderr count, so stdout stays the result's.
    """
    if os.environ.get("GITHUB_ACTIONS") != "true":
        return
    heading = _escaped(title).replace(":", "%3A").replace(",", "%2C")
    print(f"::{level} title={heading}::{_escaped(message)}", file=sys.stderr, flush=True)


def summarize(markdown: str) -> None:
    """Add to the summary of the job, when there is one; a summary that cannot be written fails nothing."""
    name = os.environ.get("GITHUB_STEP_SUMMARY")
    if not name:
        return
    path = Path(name)
    text = f"{markdown.rstrip()}\n\n"
    try:
        used = path.stat().st_size if path.exists() else 0
        if used + len(text.encode()) > SUMMARY_BYTES:
            text = "The report of qcompress is too long for this summary.\n\n"
        with path.open("a", encoding="utf-8") as stream:
            stream.write(text)
    except OSError as error:
        annotate("qcompress", f"{path}: the summary cannot be written: {error.strerror}", "warning")


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
