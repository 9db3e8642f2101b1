"""Models and data at URLs: copied to a temporary folder for a run, and called by their URLs in all that is said of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from qcompress.errors import QcompressError

if TYPE_CHECKING:
    from qcompress.results import Report


@dataclass(frozen=True, slots=True)
class Copies:
    """Local copies by their URL, each in a folder of its own."""

    folder: Path
    _places: dict[str, str] = field(default_factory=dict)

    def model(self, place: str) -> str:
        """The path of a model; one at a URL is copied with its external data.

        Raises:
            RemoteError: it cannot be read.
            ModelError: it is not a model.
        """
        from qcompress.remote import beside, fetch, is_url

        path = Path(self.data(place) or place)
        if is_url(place):
            from qcompress.graph import model_files

            for file in model_files(path)[1:]:
                inside = file.is_relative_to(path.parent) and ".." not in file.parts  # else loading says what is wrong
                if inside and not file.exists():
                    fetch(beside(place, file.relative_to(path.parent).as_posix()), file.parent)
        return str(path)

    def data(self, place: str | None) -> str | None:
        """The path of a file or folder; what is not at a URL as it is.

        Raises:
            RemoteError: it cannot be read.
        """
        from qcompress.remote import fetch, is_url

        if place is None or not is_url(place):
            return place
        if place not in self._places:
            self._places[place] = str(fetch(place, self.folder / str(len(self._places))))
        return self._places[place]

    def has(self, place: str | None) -> bool:
        """Whether a path is that of a copy."""
        return place in self._places.values()

    def told(self, text: str) -> str:
        """A text with the URLs in the place of the copies."""
        for url, path in self._places.items():
            text = text.replace(path, url)
        return text

    def report(self, report: Report) -> Report:
        """A report with the URLs in the place of the copies."""
        facts, accuracy = report.data, report.accuracy
        calibration, evaluation = (
            None if name is None else self.told(name) for name in (facts.calibration, facts.evaluation)
        )
        return replace(
            report,
            source=self.told(report.source),
            data=replace(facts, calibration=calibration, evaluation=evaluation),
            accuracy=None if accuracy is None else replace(accuracy, source=self.told(accuracy.source)),
        )


@contextmanager
def local_copies() -> Iterator[Copies]:
    """A place for copies while a run goes on; errors name the URLs."""
    with TemporaryDirectory(prefix="qcompress-") as folder:
        copies = Copies(Path(folder))
        try:
            yield copies
        except QcompressError as error:
            error.message, error.hint = copies.told(error.message), copies.told(error.hint)
            raise
