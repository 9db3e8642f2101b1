"""A dataset: units of a source, checked, batched, split and limited, and streamed on every pass."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from qcompress.data.batch import Batch, Source, Unit, count_samples, join
from qcompress.data.check import Signature, check_names, checked, conversion_note
from qcompress.errors import DataError
from qcompress.types import Array


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Feeds for a model that can be iterated any number of times, in the same order, without being held in memory."""

    source: str
    """What the user typed."""
    reader: Source
    signature: Signature
    has_labels: bool
    notes: tuple[str, ...] = ()
    """What reading had to convert, for the report."""
    selection: Array | None = None
    """The units of the source that belong to this dataset, ascending; None is all."""

    @property
    def random(self) -> bool:
        """Whether the numbers are made up."""
        return self.reader.random

    @property
    def samples(self) -> int | None:
        """Samples in one pass; None when only a pass over the source can tell."""
        sizes = self.reader.sizes
        if sizes is None:
            return None
        chosen = sizes if self.selection is None else sizes[self.selection]
        if self.reader.whole:
            chosen = chosen[: len(chosen) // self.reader.batch * self.reader.batch]
        return int(chosen.sum())

    def batches(self) -> Iterator[Batch]:
        """Read the data once, batch by batch.

        Raises:
            DataError: a feed does not fit the model, a value is NaN or infinite, or the source fails or holds nothing.
        """
        size = self.reader.batch
        waiting: list[Unit] = []
        found = False
        for unit in self._units():
            waiting.append(unit)
            if len(waiting) == size:
                yield join(waiting)
                waiting = []
                found = True
        if waiting and not self.reader.whole:
            yield join(waiting)
        elif not found:
            raise _too_few(self.source, len(waiting), size)

    def limit(self, samples: int) -> Dataset:
        """At most ``samples`` of the samples (at least one feed), spread evenly over the source.

        A source of unknown length gives its first ones.

        Raises:
            DataError: the source fails while it is counted.
        """
        known = self._counted(samples)
        indices, sizes = known._indices()
        if not len(indices):
            raise _too_few(self.source, 0, 1)
        if sizes.sum() <= samples:
            return known
        group = known._group()
        keep = max(int(samples * len(indices) / sizes.sum()) // group, 1) * group
        chosen = _spread(len(indices), keep)
        while keep > group and sizes[chosen].sum() > samples:
            keep -= group
            chosen = _spread(len(indices), keep)
        return replace(known, selection=indices[chosen])

    def split(self, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
        """Two disjoint datasets that cover this one: what to fit on, and ``fraction`` of it held out for measuring.

        Sources of samples are split by sample, sources of feeds by feed. A source of unknown length is read once to
        count it.

        Raises:
            DataError: there is not enough for both.
        """
        known = self._counted(None)
        indices, _ = known._indices()
        group = known._group()
        groups = len(indices) // group
        if groups < 2:
            what = "one complete batch" if group > 1 else "one sample or feed"
            raise DataError(
                f"{self.source} cannot be split: it holds no more than {what}",
                "give at least 2 of them, or separate evaluation data",
            )
        held = min(max(round(fraction * groups), 1), groups - 1) * group
        order = np.random.default_rng(seed).permutation(len(indices))
        fit, rest = np.sort(indices[order[held:]]), np.sort(indices[order[:held]])
        return replace(known, selection=fit), replace(known, selection=rest)

    def _units(self) -> Iterator[Unit]:
        """Checked units; one with other labels than the first promised is an error."""
        for unit in self.reader.read(self.selection):
            feed = _checked_feed(unit, self.reader, self.signature)
            if (unit.labels is not None) != self.has_labels:
                given = "has labels, the first feed had none" if unit.labels is not None else "has no labels"
                raise DataError(f"{unit.where} {given}", "give labels for all samples or for none")
            yield Unit(unit.where, feed, unit.labels)

    def _counted(self, most: int | None) -> Dataset:
        """The same data with known sizes, read as far as ``most`` samples."""
        if self.reader.sizes is not None:
            return self
        sizes: list[int] = []
        for unit in self._units():
            size = count_samples(unit.feed)
            if most is not None and sizes and sum(sizes) + size > most:
                break
            sizes.append(size)
            if most is not None and sum(sizes) >= most:
                break
        counted = replace(self.reader, sizes=np.array(sizes, np.int64))
        return replace(self, reader=counted, selection=np.arange(len(sizes)))

    def _indices(self) -> tuple[Array, Array]:
        """The chosen units and their sizes in samples."""
        sizes = self.reader.sizes
        assert sizes is not None
        if self.selection is None:
            return np.arange(len(sizes)), sizes
        return self.selection, sizes[self.selection]

    def _group(self) -> int:
        """Units that can only be used together."""
        return self.reader.batch if self.reader.whole else 1


def make_dataset(spec: str, reader: Source, signature: Signature, output_names: tuple[str, ...]) -> Dataset:
    """Look at the first unit of a source: is it there, does it fit the model, has it labels?

    Raises:
        DataError: it is not, or does not.
    """
    first = next(reader.read(None), None) if reader.sizes is None or len(reader.sizes) else None
    if first is None:
        raise DataError(f"{spec} holds no samples", "give at least one, better 100 or more")
    if reader.whole and reader.sizes is not None and len(reader.sizes) < reader.batch:
        raise _too_few(spec, len(reader.sizes), reader.batch)
    check_names(first.feed, signature, output_names, first.where)
    _checked_feed(first, reader, signature)
    return Dataset(spec, reader, signature, first.labels is not None, _notes(first, signature))


def _checked_feed(unit: Unit, reader: Source, signature: Signature) -> dict[str, Array]:
    """The feed of a unit in the model's types, or an error that names the input."""
    if reader.batch > 1:  # a unit is one sample of a batch whose size is ours to keep
        signature = tuple(replace(item, shape=(None, *item.shape[1:])) if item.shape else item for item in signature)
    return {item.name: checked(item, unit.feed[item.name], unit.where) for item in signature}


def _notes(unit: Unit, signature: Signature) -> tuple[str, ...]:
    notes = (conversion_note(item, unit.feed[item.name].dtype) for item in signature)
    return tuple(note for note in notes if note is not None)


def _too_few(source: str, units: int, batch: int) -> DataError:
    if units == 0:
        return DataError(f"{source} gave no samples", "a function must give its feeds again each time it is called")
    return DataError(
        f"{source} holds {units} samples, but the model takes exactly {batch} at a time", f"give at least {batch}"
    )


def _spread(total: int, count: int) -> Array:
    """``count`` ascending indices, evenly over 0..total-1."""
    return np.arange(count) * total // count
