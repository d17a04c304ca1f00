"""A difference of two builds as one HTML file that needs nothing else."""

from __future__ import annotations

import math

from tpu_deploy.reports.difference import Difference
from tpu_deploy.reports.difference_text import value, verdict
from tpu_deploy.reports.page import environment, resource
from tpu_deploy.reports.plain_data import plain
from tpu_deploy.reports.profile_page import script_data


def render(found: Difference) -> str:
    """The page of a difference."""
    from markupsafe import Markup

    made = environment()
    made.filters |= {"db": lambda level: "" if level is None else made.filters["decibels"](level)}
    data = {"changes": [[each.name, _drawn(each.gain_db)] for each in found.layers]}
    return str(
        made.from_string(resource("difference.html")).render(
            found=found,
            value=value,
            verdict=verdict,
            changed=sum(each.threshold_changed for each in found.layers),
            data=Markup(script_data(plain(data))),
            style=Markup(resource("page_style.html")),
            script=Markup(resource("page_tools.html") + resource("difference_script.html")),
        )
    )


def _drawn(gain: float) -> float | None:
    return gain if math.isfinite(gain) else None
