"""The report as one HTML file that needs nothing else: drawn from the record and the section of its profile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from tpu_deploy.reports import text
from tpu_deploy.reports.plain_data import number
from tpu_deploy.reports.profile_page import script_data

DRAWN = (
    "layers", "thresholds", "advice", "findings", "distributions", "weights", "search",
)  # fmt: skip
"""Keys of the record that the page's script draws from."""


def render(record: Mapping[str, Any], profile: str = "") -> str:
    """The page of a report's record; `profile` is the section that says where the time goes, as markup."""
    from markupsafe import Markup

    rows = record["layers"]
    by_tensor = {row["name"]: [row["tiu_cycles"], row["gdma_cycles"]] for row in record["timing"]["by_tensor"]}
    data = {key: record[key] for key in DRAWN} | {"cycles": by_tensor}
    return str(
        environment()
        .from_string(resource("page.html"))
        .render(
            record=record,
            profile=profile,
            together=best_together(record["trials"]),
            operations=sorted({row["operation"] for row in rows}),
            data=Markup(script_data(data)),
            style=Markup(resource("page_style.html")),
            script=Markup(resource("page_tools.html") + resource("page_script.html")),
        )
    )


def resource(name: str) -> str:
    """A file of this package."""
    return resources.files(__package__).joinpath(name).read_text()


def environment() -> Any:
    """Templates with the words and numbers of reports."""
    import jinja2

    made = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    made.filters |= {
        "size": text.size,
        "number": number,
        "decibels": lambda value: text.decibels(number(value)),
        "cosine": lambda value: text.cosine(number(value)),
        "count": lambda value: f"{value:,}",
        "percent": lambda value: f"{100 * number(value):.2f} %",
        "whole_percent": lambda value: text.percent(number(value)),
        "short": lambda value: "" if value is None else f"{number(value):.3g}",
        "rank": lambda value: rank(number(value)),
        "sentence": lambda value: f"{value[:1].upper()}{value[1:]}.",
        "coded": coded,
        "parts": parts,
    }
    return made


def coded(told: str) -> Any:
    """A sentence as markup, in which what stands between backticks is a name."""
    from markupsafe import Markup, escape

    pieces = [escape(piece) for piece in told.split("`")]
    return Markup("").join(
        Markup('<span class="name">{}</span>').format(p) if k % 2 else p for k, p in enumerate(pieces)
    )


def rank(cosine: float) -> str:
    """How near a tensor is, in three steps."""
    return "" if cosine >= 0.99 else "fair" if cosine >= 0.95 else "poor"


def parts(layer: Mapping[str, Any]) -> list[tuple[str, float]]:
    """What a layer's own error comes from, as the page names it, in shares that sum to 1; compensations left out."""
    share = {name: number(layer[f"share_{name}"]) for name in SHARES}
    last = share["requantization"] + share["table"] - share["result_clipping"]
    found = {
        "activation clipping": share["activation_clipping"],
        "activation rounding": share["activation_rounding"],
        "weight rounding": share["weight_rounding"],
        "result clipping": share["result_clipping"],
        "table" if share["table"] else "result rounding": last,
    }
    positive = {name: each for name, each in found.items() if each > 0}
    total = sum(positive.values())
    return [(name, each / total) for name, each in positive.items()]


SHARES = (
    "activation_clipping", "activation_rounding", "weight_rounding", "requantization", "table", "result_clipping",
)  # fmt: skip


def best_together(trials: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The trial of several changes at once, where it helps more than each of them."""

    def after(trial: Mapping[str, Any]) -> float:
        return number(trial["after"]["output_sqnr_db"])

    helpful = [each for each in trials if each["helps"]]
    best = max(helpful, key=after, default=None)
    return best if best is not None and best["kind"] == "together" else None
