"""Random single commands for tests: every supported instruction and mode, legal, with odd shapes, lanes and strides."""

from random_commands import elementwise, transfers, units, windows  # noqa: F401 - they register their families
from random_commands.case import FAMILIES, GLOBAL_WINDOW, Bytes, Case, at, memories

__all__ = ["FAMILIES", "GLOBAL_WINDOW", "Bytes", "Case", "at", "memories"]
