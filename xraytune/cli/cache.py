"""`xraytune cache`: list, verify or shrink the artifact cache."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Annotated, TypeAlias

from typer import Exit, Option

from xraytune.cli import console, options
from xraytune.cli.console import Cell, Column, Table
from xraytune.cli.study import show_cleaned

CacheFolder: TypeAlias = Annotated[Path, Option("--cache", metavar="DIR", help="Cache folder.")]
_HERE = Path("cache")


def list(cache: CacheFolder = _HERE, as_json: options.AsJson = False) -> None:
    """List cached artifacts by kind, with their size, last use and studies."""
    from xraytune.search.cache import list_cache

    found = list_cache(cache)
    if as_json:
        console.show_json({"artifacts": found})
        return
    kinds = {kind: [*group] for kind, group in groupby(found, key=lambda one: one.kind)}
    sizes = {kind: sum(one.size_bytes for one in group) for kind, group in kinds.items()}
    console.write(f"{cache}: {len(found):,} artifacts, {console.mebibytes(sum(sizes.values()))} MiB")
    totals = [(kind, f"{len(group):,}", console.mebibytes(sizes[kind])) for kind, group in kinds.items()]
    console.show(Table(("kind", *console.numbers("artifacts", "MiB")), totals))
    what, studies = Column("what", flexible=True), Column("studies", flexible=True, optional=True)
    columns = (what, *console.numbers("artifacts", "MiB"), "last used", studies)
    for kind, group in kinds.items():
        rows = []
        for name in dict.fromkeys(one.what for one in group):
            same = [one for one in group if one.what == name]
            used = f"{same[0].last_used.astimezone():%Y-%m-%d %H:%M}"
            size = console.mebibytes(sum(one.size_bytes for one in same))
            users = sorted({study for one in same for study in one.studies})
            rows.append((name, f"{len(same):,}", size, used, ", ".join(users)))
        console.show(Table(columns, rows, kind))


def verify(cache: CacheFolder = _HERE, as_json: options.AsJson = False) -> None:
    """Compare cached files with their checksums. The exit code is 1 if an artifact is damaged."""
    from xraytune.search.cache import verify_cache

    with console.progress() as on_progress:
        found = verify_cache(cache, on_progress=on_progress)
    if as_json:
        console.show_json({"damaged": found})
    elif not found:
        console.write(f"{cache}: all artifacts are intact", "good")
    else:
        heading = f"{len(found)} damaged; each is rebuilt when needed. To free the space, delete its folder"
        columns = (Column("folder", flexible=True), "kind", Column("missing or changed files", flexible=True))
        rows = [(str(one.path), one.kind, ", ".join(one.damaged)) for one in found]
        console.show(Cell(heading, "bad"), Table(columns, rows))
    if found:
        raise Exit(1)


def clean(
    max_size: Annotated[str, Option(metavar="SIZE", help="Maximum size of the cache, e.g. 50GB or 50GiB.")],
    cache: CacheFolder = _HERE,
    dry_run: options.DryRun = False,
    as_json: options.AsJson = False,
) -> None:
    """Remove the least recently used artifacts until the cache is no larger than SIZE.

    Artifacts that running commands use, or that unfinished trials of studies next to the cache need, are kept.
    """
    from xraytune.search.cache import clean_cache

    show_cleaned(clean_cache(cache, max_size=max_size, dry_run=dry_run), as_json=as_json)
