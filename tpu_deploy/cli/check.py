"""`tpu-deploy check`."""

from __future__ import annotations

from typing import Annotated

import typer

from tpu_deploy.errors import CheckFailed

NAMED = 5
"""How many figures the last line names."""


def check(
    report: Annotated[str, typer.Argument(metavar="REPORT.json", help="What `deploy --report` wrote, or its folder.")],
    baseline: Annotated[str, typer.Option(metavar="BASELINE.json", help="What it is held against.")],
    tolerances: Annotated[
        str | None, typer.Option(metavar="FILE.toml", help="How much worse each figure may be.")
    ] = None,
    metrics: Annotated[
        str | None, typer.Option(metavar="FILE.json", help="What `evaluate --json` printed: figures of the task.")
    ] = None,
    update: Annotated[bool, typer.Option("--update", help="Make this report the baseline.")] = False,
    junit: Annotated[str | None, typer.Option(metavar="FILE", help="Write the verdicts as JUnit's XML.")] = None,
    markdown: Annotated[str | None, typer.Option(metavar="FILE", help="Write a comment for a pull request.")] = None,
) -> None:
    """Hold a report against a baseline; fail, naming every layer that got worse and why."""
    import tpu_deploy
    from tpu_deploy.files import replacing
    from tpu_deploy.pipeline.options import writable_file
    from tpu_deploy.reports import regression_text

    for option, path in (("--junit", junit), ("--markdown", markdown)):
        if path is not None:
            writable_file(path, option, report, baseline, tolerances, metrics)
    found = tpu_deploy.check(report, baseline, tolerances, update, metrics)
    if junit is not None:
        with replacing(junit) as stream:
            stream.write(regression_text.junit(found))
    if markdown is not None:
        with replacing(markdown) as stream:
            stream.write(regression_text.markdown(found).encode())
    if update:
        print(f"{baseline}: holds this report of {found.label}")
        return
    print(regression_text.terminal(found))
    if found.worse:
        named = ", ".join(v.subject for v in found.worse[:NAMED])
        more = f" and {len(found.worse) - NAMED} more" if len(found.worse) > NAMED else ""
        raise CheckFailed(f"{report}: worse than {baseline}: {named}{more}; if that is meant, renew it with --update")
