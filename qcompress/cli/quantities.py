"""Kinds of option values for limits: bytes of memory and time."""

from __future__ import annotations

import math
import re
from typing import Any

import click

from qcompress.cli.parameters import ParamType

_NUMBER = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)", re.IGNORECASE)

_BYTES = {"b": 1, "": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "k": 10**3, "m": 10**6, "g": 10**9}
_BYTES |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}

_SECONDS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


class Bytes(ParamType):
    """A size in memory, written 6GB, 512MB or 2GiB."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Bytes."""
        number = _measured(value, _BYTES)
        if number is None or number < 1:
            self.fail(f"{value!r} is not a size; write for example 6GB or 512MB", param, ctx)
        return int(number)


class Duration(ParamType):
    """A time, written 90, 90s, 10m or 2h."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds."""
        number = _measured(value, _SECONDS)
        if number is None:
            self.fail(f"{value!r} is not a time; write for example 90s, 10m or 2h", param, ctx)
        return number


def _measured(value: Any, units: dict[str, int]) -> float | None:
    """The number in its unit, None when it is not one."""
    match = _NUMBER.fullmatch(str(value).strip())
    if match is None or match[2].lower() not in units:
        return None
    number = float(match[1]) * units[match[2].lower()]
    return number if math.isfinite(number) else None
