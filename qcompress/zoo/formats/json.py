"""A summary for programs: every field of the dataclasses."""

from __future__ import annotations

import json
from dataclasses import asdict

from qcompress.report import RenderOptions
from qcompress.zoo.jobs import Summary


def format_json(summary: Summary, options: RenderOptions) -> str:
    """The whole summary as one object, the exit code first."""
    return json.dumps({"exit_code": int(summary.exit_code), **asdict(summary)}, indent=2, ensure_ascii=False)
