"""Files of JSON, and numbers as they hold them: what JSON lacks is spelt "nan", "inf" and "-inf"."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tpu_deploy.errors import BadInput


def plain(value: Any) -> Any:
    """`value` with numbers JSON lacks spelt out, and tuples as lists."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value


def number(value: float | str | None) -> float:
    """A number that `plain` may have spelt out; NaN where there is none."""
    return math.nan if value is None else float(value)


def read(path: Path) -> dict[str, Any]:
    """The object in a file of JSON; numbers stay spelt out. Raises BadInput, naming the file, for anything else."""
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror or error}); give what --report wrote") from error
    except ValueError as error:
        raise BadInput(f"{path}: is no JSON ({error}); give the report.json that --report wrote") from error
    if not isinstance(found, dict):
        raise BadInput(f"{path}: is no report; give the report.json that --report wrote")
    return found
