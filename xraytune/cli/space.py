"""`xraytune space` lists and copies the space files that come with xraytune, and validates any."""

from pathlib import Path
from typing import Annotated

from typer import Argument

from xraytune.base.tables import Table
from xraytune.cli import console, options
from xraytune.space.load import load_space
from xraytune.space.rules import space_warnings
from xraytune.space.shipped import copy_space, describe_space, find_space, list_spaces
from xraytune.space.space import require_extensions


def space_list(as_json: options.AsJson = False) -> None:
    """List the space files that come with xraytune, and what each is for.

    Use one with `--space NAME`.

    Example: xraytune space list
    """
    spaces = list_spaces()
    if as_json:
        console.show_json(spaces)
        return
    rows = [{"name": name, "what it is for": purpose} for name, purpose in spaces.items()]
    console.show(Table(rows))


def space_copy(
    name: Annotated[
        str, Argument(metavar="NAME", help="Name of a space, as `xraytune space list` prints it.")
    ],
    out: Annotated[Path | None, options.out("FILE", "New file; default: NAME.yaml.")] = None,
    as_json: options.AsJson = False,
) -> None:
    """Copy a space file that comes with xraytune, to change it. Never overwrites a file.

    Example: xraytune space copy gan_ratio_cpu
    """
    file = copy_space(name, out)
    if as_json:
        console.show_json({"file": file})
    else:
        console.write(str(file))


def space_check(
    file: Annotated[
        Path,
        Argument(metavar="FILE", help="Search space file (YAML), or the name of a shipped one."),
    ],
    data: options.Data = None,
    weights_dir: options.WeightsDir = None,
    overrides: options.Overrides = None,
    extensions: options.Extensions = None,
    as_json: options.AsJson = False,
) -> None:
    """Validate a search space file and print it with all defaults.

    Reports all problems of the file at once.

    Example: xraytune space check gan_ratio.yaml
    """
    space = load_space(
        file, overrides or (), data=data, weights_dir=weights_dir, extensions=extensions or ()
    )
    require_extensions(space)
    if space.settings.sampler.options:
        from xraytune.study.samplers import require_sampler  # loads Optuna

        require_sampler(space.settings.sampler)
    warnings = [*space_warnings(space)]
    searched_names = space.searched
    if as_json:
        content = {"searched": searched_names, "space": space.identity(), "warnings": warnings}
        console.show_json({"file": file, **content})
        return

    what = "It is one experiment, for `xraytune train`"
    if searched_names:
        verb = "parameter is" if len(searched_names) == 1 else "parameters are"
        fixed_count = len(space.specs) - len(searched_names)
        what = f"{len(searched_names)} {verb} searched, {fixed_count} are fixed"
    if find_space(file) != file:
        console.write(describe_space(file))
    console.write(f"{file}: valid. {what}.", "strong")
    warnings.append(space.settings.idle_asha)
    images = space.settings.data.path
    if not images.exists():
        warnings.append(f"{images} does not exist: give --data DIR")
    for note in filter(None, warnings):
        console.write(f"note: {note}", "busy")
    console.write(f"\n{space.to_yaml(file.parent)}")
