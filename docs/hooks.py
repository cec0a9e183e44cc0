"""Hooks of `mkdocs build`, which build the documentation site from docs/, README and the code.

GitHub shows docs/ as it is. The site adds README as its first page, the files outside docs/ that pages link to, an index
for each folder, and a generated reference. The tests in tests/docs/ check the code blocks that `blocks` finds.
"""

from __future__ import annotations

import inspect
import json
import logging
import posixpath
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import starmap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

import yaml
from markdown_it import MarkdownIt

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page
    from pydantic.fields import FieldInfo

    from xraytune.space.encoders import Encoder

ROOT = Path(__file__).resolve().parents[1]
PAGES_OUTSIDE = {
    "index.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "examples/index.md": "examples/README.md",
    "benchmarks/index.md": "benchmarks/README.md",
}
"""Pages of the site, and the files outside docs/ that they come from."""
PROGRAMS = frozenset(
    "apt-get base64 cat cd cp curl docker envsubst export git kubectl make mkdir openssl optuna-dashboard pip "
    "python ray sbatch scp source ssh time umask uv uvicorn uvx wandb xraytune".split()
)
"""The commands that code blocks may run."""
_LINK = re.compile(r"(?<=\]\()(?!\w+:|#)(?P<path>[^)#\s]+)(?P<anchor>#[^)\s]*)?(?=\))")
_PICTURE = re.compile(
    r'<picture>.*?alt="(?P<alt>[^"]*)" src="docs/(?P<light>[^"]+)".*?</picture>', re.DOTALL
)
_log = logging.getLogger("mkdocs.hooks")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced or indented code block.

    Attributes:
        lines: The index of its first line on the page, and of the line after its last.
        language: As given after the fence; otherwise guessed: bash, yaml or empty.
        is_indented: Whether it is an indented block outside of a list.
    """

    lines: tuple[int, int]
    language: str
    text: str
    is_indented: bool = False


def blocks(markdown: str) -> list[Block]:
    """Return the code blocks of a page in order, parsed as CommonMark, as on GitHub."""
    return [
        Block(
            lines=(token.map[0], token.map[1]),
            language=token.info.split(maxsplit=1)[0] if token.info else _language(token.content),
            text=token.content,
            is_indented=token.type == "code_block" and token.level == 0,
        )
        for token in _tokens(markdown)
        if token.type in ("fence", "code_block") and token.map
    ]


def _tokens(markdown: str) -> Sequence[Any]:
    return MarkdownIt().enable("table").parse(markdown)


def _language(text: str) -> str:
    first = next(
        (line for line in text.splitlines() if line.strip() and not line.startswith("#")), ""
    )
    words = [word for word in re.split(r"[\s(;]+", first) if word and not re.match(r"\w+=", word)]
    if words and posixpath.basename(words[0]) in PROGRAMS:
        return "bash"
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError:
        return ""
    return "yaml" if isinstance(content, dict) and re.match(r"[\w.]+:(\s|$)", first) else ""


def shell_commands(text: str) -> list[list[str]]:
    """Return the words of each command of a shell block, without comments, redirections and leading variable assignments."""
    found: list[list[str]] = []
    for line in text.replace("\\\n", " ").splitlines():
        words: list[str] = []
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        tokens = iter(lexer)
        for token in tokens:
            if set(token) <= set("();&|"):
                found, words = [*found, words], []
            elif set(token) <= set("<>&"):
                next(tokens, None)  # the file
            elif words or not re.match(r"\w+=", token):
                words.append(token)
        found.append(words)
    return [words for words in found if words]


def on_config(config: MkDocsConfig) -> None:
    """Replace each folder in the navigation by its pages."""
    config.nav = _expanded(config.nav)


def _expanded(entry: Any) -> Any:
    if isinstance(entry, list):
        return [_expanded(one) for one in entry]
    if isinstance(entry, dict):
        return {title: _expanded(inner) for title, inner in entry.items()}
    if not entry.endswith("/"):
        return entry
    return [f"{entry}index.md", *(page for page in _pages_of(entry) if page != f"{entry}index.md")]


def _pages_of(folder: str) -> list[str]:
    return sorted(
        path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs" / folder).glob("*.md")
    )


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/."""
    from mkdocs.structure.files import File, InclusionLevel

    def add(uri: str, content: str, inclusion: InclusionLevel = InclusionLevel.UNDEFINED) -> None:
        files.append(File.generated(config, uri, content=content, inclusion=inclusion))

    for uri, path in PAGES_OUTSIDE.items():
        add(uri, (ROOT / path).read_text(encoding="utf-8"))
    add("reference/space.md", space_reference())
    add("reference/cli.md", cli_reference())
    add("reference/python.md", python_reference())
    shown = _linked_files([file.src_uri for file in files.documentation_pages()])
    folders = {page.parent for page in (ROOT / "docs").glob("*/*.md")}
    lists = {f"{folder.name}/index.md": _index(folder) for folder in folders}
    for uri, content in (shown | lists).items():
        if files.get_file_from_path(uri) is None:
            add(uri, content, InclusionLevel.NOT_IN_NAV)
    return files


def _linked_files(uris: Sequence[str]) -> dict[str, str]:
    """Return pages for the files outside docs/ that pages link to."""
    found: dict[str, str] = {}
    for uri in uris:
        path = ROOT / _source(uri)
        for link in _LINK.finditer(path.read_text(encoding="utf-8")) if path.exists() else ():
            target = (path.parent / link["path"]).resolve()
            if target.is_file() and _uri(target).startswith("files/"):
                language = {".py": "python"}.get(target.suffix, target.suffix[1:])
                content = target.read_text(encoding="utf-8")
                found[_uri(target)] = (
                    f"# {target.relative_to(ROOT)}\n\n``` {language}\n{content.rstrip()}\n```\n"
                )
    return found


def _source(uri: str) -> str:
    return PAGES_OUTSIDE.get(uri, f"docs/{uri}")


def _uri(target: Path) -> str:
    """Return the page of the site that shows a file or folder of the repository."""
    path = target.relative_to(ROOT).as_posix()
    pages = {source: uri for uri, source in PAGES_OUTSIDE.items()}
    if path in pages:
        return pages[path]
    inside = path.removeprefix("docs/")
    if target.is_dir():
        return f"{inside}/index.md"
    return inside if inside != path else f"files/{path}.md"


def _index(folder: Path) -> str:
    lines = [f"# {folder.name.capitalize()}\n"]
    for file in sorted(folder.glob("*.md")):
        title = file.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
        lines.append(f"- [{title}]({file.name})")
    return "\n".join(lines) + "\n"


def on_page_markdown(markdown: str, *, page: Page, **_: Any) -> str:
    """Adapt links, code blocks and pictures of a page that was written for GitHub."""
    path = ROOT / _source(page.file.src_uri)
    if not path.exists():
        return markdown
    lines = markdown.splitlines()
    for token in _tokens(markdown):
        if (
            token.type in ("bullet_list_open", "ordered_list_open", "table_open")
            and token.level == 0
            and token.map
        ):
            before = lines[token.map[0] - 1] if token.map[0] else ""
            if before.strip() and not before.startswith("#"):
                _log.warning(
                    "%s:%d: a list or table needs an empty line before it",
                    _source(page.file.src_uri),
                    token.map[0] + 1,
                )
    for block in reversed(blocks(markdown)):
        if block.is_indented:
            lines[slice(*block.lines)] = [
                f"``` {block.language}",
                *block.text.splitlines(),
                "```",
                "",
            ]
    adapted = _PICTURE.sub(_for_both_schemes, "\n".join(lines))
    return _LINK.sub(lambda link: _site_link(link, path, page.file.src_uri), adapted)


def _site_link(link: re.Match[str], source: Path, uri: str) -> str:
    target = (source.parent / link["path"]).resolve()
    if not target.is_relative_to(ROOT) or not target.exists():
        return link[0]  # mkdocs reports it
    return posixpath.relpath(_uri(target), posixpath.dirname(uri) or ".") + (link["anchor"] or "")


def _for_both_schemes(picture: re.Match[str]) -> str:
    light, alt = picture["light"], picture["alt"]
    return f"![{alt}](docs/{light}#only-light)\n![{alt}](docs/{light.replace('light', 'dark')}#only-dark)"


_SPACE_PAGE = """\
# Space file

Every key of a space file, generated from the code. `xraytune space check FILE` prints a file with all defaults. All keys
except `name` are optional.

## Top level

{top}
| [`parameters`](#parameters) | block | | the search space |
| `points_to_evaluate` | list of parameter values | | trials to run first |

{blocks}

## parameters

A parameter is fixed (`{{value: 32}}`), searched among values (`{{values: [16, 32]}}`), or, if it is a number, searched in a
range (`{{min: 1e-4, max: 1e-2, distribution: log_uniform_values}}`). With `when: {{source: [gan]}}`, it
applies only if this condition holds. The parameters of `gan` and `folder` can also be grouped in a block:
`gan: {{when: {{source: gan}}, parameters: {{steps: {{value: 5000}}}}}}`. Distributions: {distributions}.

| parameter | values | default | meaning |
|---|---|---|---|
{parameters}

## What is refused

Each rule is checked at every point of a space before a search starts, and for the final model.
The message says what to write instead. A value that has no effect is refused, too, unless an
option of the command line has made it so.

| settings and parameters | why some of their values are refused |
|---|---|
{rules}

## Backbones

{backbones}

## Encoders

Published encoders of X-rays, whose weights are a file that you download: `weights: FILE`. The features of an image are
its class token, or a mean over positions. With `data.set` one of the sets that an encoder has seen, a verdict is exploratory.

| backbone | architecture | official file | images | mean; standard deviation of pixels | features | has seen | licence |
|---|---|---|---|---|---|---|---|
{encoders}
"""


def space_reference() -> str:
    """Return the reference of space files: every key with its values, default and meaning."""
    from pydantic import TypeAdapter

    from xraytune.space.backbones import BACKBONES
    from xraytune.space.encoders import XRAY_ENCODERS
    from xraytune.space.fields import PARAMETERS
    from xraytune.space.grammar import DISTRIBUTIONS
    from xraytune.space.settings import RULES, Settings

    schema: Any = Settings.model_json_schema()
    definitions, top = schema["$defs"], schema["properties"]
    fields = PARAMETERS
    values: dict[str, Any] = {}
    for name, field in fields.items():
        kind: Any = Annotated[field.annotation, field]
        values[name] = TypeAdapter(kind).json_schema()
    return _SPACE_PAGE.format(
        top=_setting_table(top, definitions),
        blocks="\n\n".join(
            "\n\n".join(
                (
                    f"## {title}",
                    model["description"],
                    _setting_table(model["properties"], definitions, f"{title}."),
                )
            )
            for title, model in _blocks_of(top, definitions)
        ),
        distributions=_codes(DISTRIBUTIONS),
        parameters="\n".join(
            _parameter_row(name, field, values[name]) for name, field in fields.items()
        ),
        rules="\n".join(f"| {_codes(rule.names)} | {_cell(rule.why)} |" for rule in RULES),
        backbones=_codes([*BACKBONES.built_in, "timm/NAME"]),
        encoders="\n".join(starmap(_encoder_row, XRAY_ENCODERS.items())),
    )


def _encoder_row(name: str, encoder: Encoder) -> str:
    images = encoder.images
    constants = "; ".join(
        ", ".join(f"{value:g}" for value in dict.fromkeys(values))
        for values in (images.mean, images.std)
    )
    cells = (
        f"`{name}`",
        f"`{encoder.architecture}`",
        f"[`{encoder.file}`]({encoder.reference})",
        f"{images.side_px} px, {'grey' if len(images.mean) == 1 else 'three channels'}",
        constants,
        encoder.features,
        ", ".join(encoder.seen) or "no known set of X-rays",
        encoder.licence,
    )
    return f"| {' | '.join(cells)} |"


def _parameter_row(name: str, field: FieldInfo, values: Mapping[str, Any]) -> str:
    from xraytune.space.extensions import AUGMENTATIONS, SOURCES

    named = {"backbone": "one of the [backbones](#backbones)"}
    named |= {kind.name: _codes(kind.built_in) for kind in (SOURCES, AUGMENTATIONS)}
    shown = named.get(name) or _values(values)
    default = "required" if field.is_required() else _codes([field.default])
    return f"| `{name}` | {shown} | {default} | {_cell(field.description or '')} |"


def _blocks_of(
    properties: Mapping[str, Any], definitions: Any, prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    for name, value in properties.items():
        if model := _model(value):
            yield f"{prefix}{name}", definitions[model]
            yield from _blocks_of(definitions[model]["properties"], definitions, f"{prefix}{name}.")


def _model(schema: Mapping[str, Any]) -> str | None:
    """Return the name of a key's model in the schema, if the key is a block."""
    ways = [schema, *schema.get("anyOf", ())]
    return next((str(way["$ref"]).removeprefix("#/$defs/") for way in ways if "$ref" in way), None)


def _setting_table(properties: Mapping[str, Any], definitions: Any, prefix: str = "") -> str:
    rows = ["| key | values | default | meaning |", "|---|---|---|---|"]
    for name, value in properties.items():
        model, about = _model(value), value.get("description", "")
        key, default = f"`{name}`", _codes([value["default"]]) if "default" in value else ""
        if model:
            anchor = f"{prefix}{name}".replace(".", "")
            key, default, about = (
                f"[`{name}`](#{anchor})",
                "",
                about or definitions[model].get("description", ""),
            )
        rows.append(f"| {key} | {_values(value)} | {default} | {_cell(about)} |")
    return "\n".join(rows)


def _values(schema: Mapping[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_values(one) for one in schema["anyOf"]))
    if "$ref" in schema:
        return "block"
    if "enum" in schema or "const" in schema:
        return _codes(schema.get("enum", [schema.get("const")]))
    kind = schema.get("type", "text")
    if kind == "array":
        return f"list of {_values(schema['items'])}"
    if kind == "string":
        return "path" if schema.get("format") == "path" else "text"
    bounds = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = ", ".join(
        f"{sign} {schema[bound]:g}" for bound, sign in bounds.items() if bound in schema
    )
    names = {"null": "`null`", "boolean": "`true`, `false`", "object": "mapping"}
    return f"{names.get(kind, kind)} {limits}".strip()


def _codes(values: Sequence[object]) -> str:
    return ", ".join(
        f"`{value if isinstance(value, str) else json.dumps(value)}`" for value in values
    )


def _cell(text: str) -> str:
    """Return text for a table cell on a page of reference/."""
    return re.sub(
        r"\bdocs/(\w+)\.md\b", r"[\1](../\1.md)", " ".join(text.split()).replace("|", "\\|")
    )


_CLI_PAGE = """\
# Command line

Every command with its options, generated from the code. `xraytune COMMAND --help` prints the same text.

{commands}

## Exit codes

``` text
{errors}
```
"""


def cli_reference() -> str:
    """Return the reference of the command line: every command with its arguments and options, and the exit codes."""
    from typer.main import get_command

    import xraytune.base.errors
    from xraytune.cli.main import build_app

    return _CLI_PAGE.format(
        commands="\n\n".join(
            _command_section(*one) for one in commands(get_command(build_app()), "xraytune")
        ),
        errors=inspect.cleandoc((xraytune.base.errors.__doc__ or "").partition("\n\n")[2]),
    )


def _command_section(name: str, command: Any) -> str:
    options = [param for param in command.params if param.name != "help"]
    arguments = [_option_name(param) for param in options if param.param_type_name == "argument"]
    example = (command.epilog or "").removeprefix("Example: ")
    lines = [
        f"## {name}",
        "",
        _prose(command.help or ""),
        "",
        f"``` bash\n{' '.join([name, *arguments, '[OPTIONS]'])}",
    ]
    lines += [f"{example}  # example\n```", "", "| option | default | meaning |", "|---|---|---|"]
    return "\n".join([*lines, *(_option_row(param) for param in options)])


def commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield every command without subcommands, with its full name."""
    for child, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, f"{name} {child}")
    if not hasattr(command, "commands"):
        yield name, command


def _prose(text: str) -> str:
    return text.replace("<", "&lt;").strip()


def _option_name(param: Any) -> str:
    annotation = param.type_descriptor.annotation
    if param.param_type_name == "argument":
        return str(param.metavar or param.name.upper())
    names = ", ".join([*param.opts, *param.secondary_opts])
    value = param.metavar or getattr(annotation, "__name__", "").upper()
    return (
        names
        if param.is_flag
        else f"{names} {'VALUE' if get_origin(annotation) is Literal else value}"
    )


def _option_row(param: Any) -> str:
    annotation = param.type_descriptor.annotation
    choices = (
        f" One of {_codes(get_args(annotation))}." if get_origin(annotation) is Literal else ""
    )
    default = (
        "required"
        if param.required
        else ""
        if param.default in (None, False, (), [])
        else f"`{param.default}`"
    )
    return (
        f"| `{_option_name(param)}` | {default} | {_cell(_prose((param.help or '') + choices))} |"
    )


def python_reference() -> str:
    """Return the reference of the Python API, which mkdocstrings fills from the docstrings."""
    from typer.main import get_command

    from xraytune import api
    from xraytune.cli.main import build_app

    lines = [
        "# Python API\n",
        "Every name of `xraytune.api`. [xraytune in Python](../python.md) walks through a complete search.\n",
    ]
    lines += ["| command | function |", "|---|---|"]
    for words, _ in commands(get_command(build_app()), "xraytune"):
        name = words.removeprefix("xraytune ").replace(" ", "_")
        lines.append(f"| `{words}` | [`{name}`][{api.PLACES[name]}] |")
    entries = (
        f"::: {api.PLACES[name]}\n    options:\n      heading: {name}\n" for name in api.__all__
    )
    return "\n".join([*lines, "", *entries])
