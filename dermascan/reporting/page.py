"""What all pages have in common: one HTML file that needs nothing but itself."""

import base64
from dataclasses import dataclass
from importlib import resources

from jinja2 import Environment, FunctionLoader, StrictUndefined

from dermascan import DISCLAIMER, __version__
from dermascan.evaluation import Estimate
from dermascan.taxonomy import CLASS_NAMES, LESION_CLASSES

NOT_DEFINED = "n/a"


@dataclass(frozen=True)
class ReportContext:
    """What a report says about where it comes from.

    Attributes:
        title: heading of the page.
        subtitle: one line under it.
        facts: pairs of name and value for the box on training or provenance.
        image_credit: whose the images in it are and under which licence, where it shows any.
    """

    title: str
    subtitle: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    image_credit: str = ""


def render(template: str, **values: object) -> str:
    """Fill in a template of `dermascan/templates`; every value is escaped."""
    environment = Environment(
        loader=FunctionLoader(_template_source),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "share": share,
        "decimal": decimal,
        "interval": interval,
        "position": _position,
        "signed": _signed,
        "probability": _probability,
    }
    environment.globals |= {
        "disclaimer": DISCLAIMER,
        "library_version": __version__,
        "class_names": CLASS_NAMES,
        "lesion_classes": LESION_CLASSES,
    }
    return environment.get_template(template).render(**values)


def share(value: float | None) -> str:
    """Show a share of 1 in per cent."""
    return NOT_DEFINED if value is None else f"{100 * value:.1f} %"


def decimal(value: float | None) -> str:
    """Show a figure with three decimals."""
    return NOT_DEFINED if value is None else f"{value:.3f}"


def interval(estimate: Estimate, is_share: bool = False) -> str:
    """Show the ends of an interval; nothing where there is none."""
    if estimate.low is None or estimate.high is None:
        return ""
    if is_share:
        return f"{100 * estimate.low:.1f} to {share(estimate.high)}"
    return f"{decimal(estimate.low)} to {decimal(estimate.high)}"


def jpeg_uri(jpeg: bytes) -> str:
    """Return an image that stands in the page itself."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


def _template_source(name: str) -> str:
    return resources.files("dermascan").joinpath("templates", name).read_text("utf-8")


def _position(value: float, start: float = 0.0, end: float = 1.0) -> str:
    """Return where a value lies between `start` and `end`, as a CSS percentage."""
    return f"{100 * min(max((value - start) / (end - start), 0), 1):.2f}%"


def _signed(value: float | None) -> str:
    return NOT_DEFINED if value is None else f"{value:+.3f}"


def _probability(value: float | None) -> str:
    """Show a p value, with its sign of relation."""
    if value is None:
        return NOT_DEFINED
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"
