"""The record of a report: plain data that JSON holds, written down under a version of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tpu_deploy.errors import BadInput
from tpu_deploy.files import replacing
from tpu_deploy.reports import page, plain_data, profile_page
from tpu_deploy.reports.layers import Layer, table
from tpu_deploy.reports.plain_data import plain
from tpu_deploy.reports.profile import Profile

SCHEMA = 3
"""Version of the record's layout: raised when a key changes its meaning or goes."""


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


def read(path: Path) -> dict[str, Any]:
    """The record in a report.json, or in a folder that holds one. Raises BadInput, naming the file, for anything else.

    Numbers that JSON lacks stay spelt out (`plain_data.number` reads them).
    """
    file = path / "report.json" if path.is_dir() else path
    return checked(plain_data.read(file), file)


def checked(found: dict[str, Any], file: Path) -> dict[str, Any]:
    """What was found in a file, if it is a record of this version. Raises BadInput, naming the file, if not."""
    schema = found.get("schema")
    if not isinstance(schema, int) or not isinstance(found.get("layers"), list):
        raise BadInput(f"{file}: is no report; give the report.json that --report wrote")
    if schema != SCHEMA:
        age = "a newer" if schema > SCHEMA else "an older"
        raise BadInput(f"{file}: was written by {age} version (schema {schema}, not {SCHEMA}); write the report anew")
    return found
