"""What a search remembers between runs: everything measured, in a file beside its result, valid for the same inputs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tpu_deploy.errors import BadInput
from tpu_deploy.files import replacing
from tpu_deploy.pipeline.options import Progress

SCHEMA = 1


class SearchRecord:
    """Measured facts by kind and name. Asked for one it lacks, it has it measured, and writes the file at once."""

    def __init__(self, path: Path, inputs: Mapping[str, str], progress: Progress, origin: str = "") -> None:
        """`inputs` (what to digest): with others than the file's its facts are worthless, which is told.

        `origin` is written down for `origin_in`.
        """
        self._path, self._inputs, self._origin = path, dict(inputs), origin
        self._facts: dict[str, dict[str, Any]] = {}
        if not path.exists():
            return
        try:
            found = json.loads(path.read_bytes())
            earlier = found["inputs"]
            changed = [what for what, digest in self._inputs.items() if earlier.get(what) != digest]
            facts = found["facts"] if found["schema"] == SCHEMA else None
        except OSError as error:
            raise BadInput(f"{path}: cannot be read ({error.strerror or error}); remove it to search anew") from error
        except (ValueError, KeyError, TypeError, AttributeError):
            progress.note(f"{path}: is no record of a search; searching anew")
            return
        if changed or facts is None:
            progress.note(f"{path}: another {' and '.join(changed) or 'version'}; searching anew")
            return
        self._facts = facts
        progress.note(f"{path}: {sum(map(len, facts.values()))} earlier measurements are used")

    @staticmethod
    def origin_in(path: Path) -> str:
        """What the calibration table beside a record was made of; "" where that is not known."""
        try:
            return str(json.loads(path.read_bytes())["origin"])
        except (OSError, ValueError, KeyError, TypeError):
            return ""

    def has(self, kind: str, name: str) -> bool:
        """Whether a fact is known."""
        return name in self._facts.get(kind, {})

    def fact(self, kind: str, name: str, measured: Callable[[], Any]) -> Any:
        """The fact, JSON-able, measured if need be."""
        return self._facts[kind][name] if self.has(kind, name) else self.kept(kind, name, measured())

    def kept(self, kind: str, name: str, fact: Any) -> Any:
        """The fact that was measured, now entered."""
        self._facts.setdefault(kind, {})[name] = fact
        content = {"schema": SCHEMA, "inputs": self._inputs, "origin": self._origin, "facts": self._facts}
        with replacing(self._path) as stream:
            stream.write(json.dumps(content).encode())
        return fact
