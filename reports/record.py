"""The record of a report: plain data that JSON holds, written down under a version of its own."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tpu_deploy.files import replacing
from tpu_deploy.reports import page, profile_page
from tpu_deploy.reports.layers import Layer, table
from tpu_deploy.reports.profile import Profile

SCHEMA = 2
"""Version of the record's layout: raised when a key changes its meaning or goes."""


def plain(value: Any) -> Any:
    """`value` with numbers JSON lacks spelt "nan", "inf" and "-inf", and tuples as lists."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value


def write(folder: Path, record: Mapping[str, Any], layers: Sequence[Layer], profile: Profile) -> list[Path]:
    """The files of a report, written into `folder`: report.json, layers.csv, index.html. Raises BadInput."""
    whole = plain({"schema": SCHEMA, **record})
    contents = {
        "report.json": json.dumps(whole, indent=1, allow_nan=False) + "\n",
        "layers.csv": table(layers).to_csv(index=False),
        "index.html": page.render(whole, profile_page.section(profile)),
    }
    for name, content in contents.items():
        with replacing(folder / name) as stream:
            stream.write(content.encode())
    return [folder / name for name in contents]
