"""Errors a user can act on, each with its exit code and a hint."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What the process says to a Makefile or a CI job."""

    DONE = 0
    GATE_FAILED = 1
    USAGE = 2
    UNUSABLE = 3
    NOTHING_TO_COMPRESS = 4
    BUG = 70


class QcompressError(Exception):
    """A failure told in one line: what is wrong, where, and what to do."""

    exit_code = ExitCode.UNUSABLE

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class UsageError(QcompressError):
    """The command was called with options that do not go together."""

    exit_code = ExitCode.USAGE


class ModelError(QcompressError):
    """The model file cannot be read, is invalid or cannot be run."""


class DataError(QcompressError):
    """The calibration or evaluation data cannot be used with this model."""


class RecipeError(QcompressError):
    """The recipe or plan is malformed or does not fit the model."""


class CalibrationError(QcompressError):
    """The activations cannot be turned into ranges, for example because one is NaN."""


class OutputError(QcompressError):
    """A result cannot be written where it was asked for."""


class EngineError(QcompressError):
    """What is to run a batch is not there, or is gone."""


class RemoteError(QcompressError):
    """A file at a URL cannot be read or written."""


class NothingToCompressError(QcompressError):
    """No weight could be compressed, or the result would not be smaller."""

    exit_code = ExitCode.NOTHING_TO_COMPRESS
