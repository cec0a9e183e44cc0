"""Render a page from `templates/` as one HTML file that needs no network."""

import base64
import gzip
import re
from datetime import datetime
from functools import cache
from typing import Any

from markupsafe import Markup, escape

from xraytune.base.errors import counted
from xraytune.base.tables import duration, sentence, text_of
from xraytune.base.templates import open_templates


def render_page(name: str, **content: Any) -> str:
    """Return the page of a template with its content, the time, and Plotly."""
    templates = open_templates("xraytune.present", autoescape=True)
    templates.filters |= {
        "code": _mark_code,
        "counted": counted,
        "data_uri": _data_uri,
        "duration": duration,
        "json": lambda figure: Markup(figure.to_json()),  # Plotly escapes markup
        "sentence": sentence,
        "text": text_of,
    }
    written = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M")
    return templates.get_template(name).render(**content, written=written, plotly=_pack_plotly())


@cache
def _pack_plotly() -> str:
    """Return Plotly's JavaScript, compressed to a third of its size and in base64."""
    from plotly.offline import get_plotlyjs  # takes most of a second

    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()


def _data_uri(picture: bytes) -> str:
    kind = "jpeg" if picture[:1] == b"\xff" else "png"
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


def _mark_code(text: str) -> Markup:
    """Return escaped text with parts in backticks as code elements."""
    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(text))))
