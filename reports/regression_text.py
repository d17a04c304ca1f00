"""A comparison with a baseline as text for a terminal, a pull request, and a CI server."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree

from tpu_deploy.reports.regression import CHECKS, Comparison, Verdict

NOT_IN_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that tensors' names may have and XML 1.0 has not, not even escaped."""

LISTED = 20
"""How many rows of one check a person is shown; the rest is counted."""


def terminal(found: Comparison) -> str:
    """A line for each figure that got worse, or one line that none did."""
    if not found.worse:
        return f"{found.label}: nothing got worse ({_counts(found.verdicts)})"
    lines = []
    for check in CHECKS:
        worse = [v for v in found.worse if v.check == check]
        lines += [f"{check:10} {v.subject}: {v.before} -> {v.after}: {v.reason}" for v in worse[:LISTED]]
        if len(worse) > LISTED:
            lines.append(f"{check:10} and {len(worse) - LISTED} more")
    return "\n".join(lines)


def markdown(found: Comparison) -> str:
    """A comment for a pull request."""
    if not found.worse:
        return f"### {_escaped(found.label)}: nothing got worse\n\n{_counts(found.verdicts)}.\n"
    count = f"{len(found.worse)} figure{'s' if len(found.worse) > 1 else ''}"
    lines = [f"### {_escaped(found.label)}: {count} got worse", ""]
    lines += ["| what | where | before | after | why |", "|---|---|---|---|---|"]
    for check in CHECKS:
        worse = [v for v in found.worse if v.check == check]
        cells = [(v.check, f"`{v.subject}`", v.before, v.after, v.reason) for v in worse[:LISTED]]
        lines += ["| " + " | ".join(map(_escaped, row)) + " |" for row in cells]
        if len(worse) > LISTED:
            lines.append(f"| {check} | and {len(worse) - LISTED} more | | | |")
    return "\n".join([*lines, "", f"{_counts(found.verdicts)}.", ""])


def junit(found: Comparison) -> bytes:
    """JUnit's XML: a test case for each figure."""
    counts = {"tests": str(len(found.verdicts)), "failures": str(len(found.worse)), "errors": "0"}
    root = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(root, "testsuite", {"name": f"tpu-deploy check {found.label}", **counts})
    for verdict in found.verdicts:
        names = {"classname": f"{found.label}.{verdict.check}", "name": verdict.subject, "time": "0"}
        case = ElementTree.SubElement(suite, "testcase", names)
        if verdict.worse:
            message = f"{verdict.before} -> {verdict.after}: {verdict.reason}"
            ElementTree.SubElement(case, "failure", {"message": message}).text = message
    ElementTree.indent(root)
    text = NOT_IN_XML.sub("?", ElementTree.tostring(root, "unicode"))
    return f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n'.encode()


def _counts(verdicts: Sequence[Verdict]) -> str:
    """How many figures of each check were compared."""
    counts = {check: sum(v.check == check for v in verdicts) for check in CHECKS}
    return ", ".join(f"{count} {check}" for check, count in counts.items() if count)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
