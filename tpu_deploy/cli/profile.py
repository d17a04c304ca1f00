"""`tpu-deploy profile`: where the time of a bmodel goes."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from tpu_deploy.cli import options


def profile(
    bmodel: options.Bmodel,
    html: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write a page with the timeline and the map of local memory.")
    ] = None,
    as_json: Annotated[str | None, typer.Option("--json", metavar="FILE", help="Write the figures as JSON.")] = None,
    as_csv: Annotated[str | None, typer.Option("--csv", metavar="FILE", help="Write every command, one a row.")] = None,
    top: Annotated[int, typer.Option(metavar="N", min=1, help="Rows of each table.")] = 10,
) -> None:
    """Show where the time of a bmodel goes, the vendor's too: engines, traffic, bounds, waiting, local memory."""
    import tpu_deploy
    from tpu_deploy.files import replacing
    from tpu_deploy.pipeline.options import writable_file
    from tpu_deploy.reports import profile_page, profile_record, profile_text

    asked = (("--html", html), ("--json", as_json), ("--csv", as_csv))
    targets = {option: writable_file(path, option, bmodel) for option, path in asked if path is not None}
    found = tpu_deploy.profile(bmodel)
    contents = {
        "--html": lambda: profile_page.render(found),
        "--json": lambda: json.dumps(profile_record.record(found), indent=1, allow_nan=False) + "\n",
        "--csv": lambda: profile_record.commands_csv(found),
    }
    for option, target in targets.items():
        with replacing(target) as stream:
            stream.write(contents[option]().encode())
    print(profile_text.whole(found, top))
    if targets:
        print("\nwritten: " + ", ".join(map(str, targets.values())))
