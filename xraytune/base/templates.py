"""Templates of texts and pages; a template that uses an undefined name is an error."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def open_templates(package: str, **options: Any) -> Environment:
    """Return the environment of a package's `templates/`, with options of Jinja."""
    return Environment(
        loader=PackageLoader(package),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **options,
    )
