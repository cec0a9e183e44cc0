"""The mutants of one source file: the same code with one small change.

A comparison is shifted or reversed, an operator swapped, a number increased by one, a string emptied, a condition negated, a
return value dropped, or a call or a `not` removed. Annotations, docstrings, decorators, asserts and class bodies outside of
methods stay unchanged.
"""

from __future__ import annotations
import __future__

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from inspect import unwrap
from types import CodeType, FunctionType, ModuleType
from typing import Any

CONSTANTS = "constants"
"""The function's name where a constant of the module is mutated."""
_COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
_OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Div,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.MatMult: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
_LEFT_ALONE = ("annotation", "returns", "decorator_list", "format_spec", "type_comment")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One change.

    Attributes:
        function: The function: `plan_mix`, `Rungs.should_continue`, or `CONSTANTS`.
        lines: First and last line of that function, decorators included; of the whole file for a constant.
        line: The changed line.
        text: That line after the change.
        code: Defines the mutated function, or the module's constants.
    """

    function: str
    lines: tuple[int, int]
    line: int
    text: str
    code: CodeType

    def put_into(self, modules: dict[str, ModuleType], name: str) -> None:
        """Make the change in a module that is already imported, wherever its functions and constants are referenced."""
        module = modules[name]
        namespace = dict(vars(module))
        exec(self.code, namespace)
        if self.function == CONSTANTS:
            for constant in self.code.co_names:
                old = vars(module).get(constant)
                for other in [*modules.values()]:
                    if constant in vars(module) and vars(other).get(constant, other) is old:
                        setattr(other, constant, namespace[constant])
            return
        *owner, function = self.function.split(".")
        found: Any = vars(vars(module)[owner[0]] if owner else module)[function]
        old_function: FunctionType = unwrap(getattr(found, "fget", None) or getattr(found, "__func__", found))
        if hasattr(found, "cache_clear"):
            found.cache_clear()
        new_function = namespace[function]
        old_function.__code__ = new_function.__code__
        old_function.__defaults__ = new_function.__defaults__
        old_function.__kwdefaults__ = new_function.__kwdefaults__


def mutants_of(source: str, path: str) -> list[Mutant]:
    """All mutants of a file, in its order."""
    tree = ast.parse(source)
    found: list[Mutant] = []
    constants = [node for node in tree.body if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None]
    for constant in constants:
        if not _is_type(constant):
            found += _mutants(constant, list(constants), CONSTANTS, (1, len(source)), source, path)
    for node in tree.body:
        owner, members = (f"{node.name}.", node.body) if isinstance(node, ast.ClassDef) else ("", [node])
        for member in members:
            if isinstance(member, ast.FunctionDef) and not _only_says(member):
                first = min([member.lineno, *(one.lineno for one in member.decorator_list)])
                span = first, member.end_lineno or first
                member.decorator_list = []
                found += _mutants(member, [member], f"{owner}{member.name}", span, source, path)
    return sorted(found, key=lambda mutant: mutant.line)


@dataclass(frozen=True, slots=True)
class _Site:
    """A place in a tree and what may stand there instead; `shown` is the node whose text tells it."""

    holder: ast.AST
    field: str
    index: int | None
    old: ast.AST
    new: ast.AST
    shown: ast.AST

    def put(self, node: ast.AST) -> None:
        if self.index is None:
            setattr(self.holder, self.field, node)
        else:
            getattr(self.holder, self.field)[self.index] = node


def _mutants(
    part: ast.stmt, body: list[Any], function: str, span: tuple[int, int], source: str, path: str
) -> Iterator[Mutant]:
    lines = [line.encode() for line in source.splitlines()]
    for site in list(_sites(part, None)):
        shown: Any = site.shown
        ast.copy_location(site.new, site.old)
        ast.fix_missing_locations(site.new)
        site.put(site.new)
        module = ast.Module(body=body, type_ignores=[])
        code = compile(module, path, "exec", flags=__future__.annotations.compiler_flag, dont_inherit=True)
        after = ast.unparse(site.new if shown is site.old else shown)
        site.put(site.old)
        line = lines[shown.lineno - 1]
        rest = line[shown.end_col_offset :] if shown.end_lineno == shown.lineno else b""
        text = f"{line[: shown.col_offset].decode()}{after}{rest.decode()}".strip()
        yield Mutant(function=function, lines=span, line=shown.lineno, text=text, code=code)


def _sites(node: ast.AST, text: ast.JoinedStr | None) -> Iterator[_Site]:
    """The places in a node, its own fields first. An f-string is shown whole: positions in it are wrong."""
    if isinstance(node, ast.Assert) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
        return
    inside = text or (node if isinstance(node, ast.JoinedStr) else None)
    for field, value in ast.iter_fields(node):
        if field in _LEFT_ALONE:
            continue
        for index, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if not isinstance(child, ast.AST) or (isinstance(node, ast.JoinedStr) and isinstance(child, ast.Constant)):
                continue
            for new in _variants(child, is_condition=field in ("test", "ifs")):
                yield _Site(node, field, index, child, new, inside or child)
            yield from _sites(child, inside)


def _variants(node: ast.AST, *, is_condition: bool) -> Iterator[ast.AST]:
    """What may stand in a node's place."""
    is_turned = (isinstance(node, ast.Compare) and len(node.ops) == 1) or isinstance(node, ast.UnaryOp)
    if is_condition and isinstance(node, ast.expr) and not is_turned:
        yield ast.UnaryOp(op=ast.Not(), operand=node)
    match node:
        case ast.Compare(left=left, ops=operators, comparators=others):
            for place, operator in enumerate(operators):
                for other in _COMPARISONS[type(operator)]:
                    yield ast.Compare(left, [*operators[:place], other(), *operators[place + 1 :]], others)
        case ast.BoolOp(op=ast.And(), values=values):
            yield ast.BoolOp(ast.Or(), values)
        case ast.BoolOp(values=values):
            yield ast.BoolOp(ast.And(), values)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            yield ast.BinOp(left, _OPERATORS[type(op)](), right)
        case ast.AugAssign(target=target, op=op, value=value) if type(op) in _OPERATORS:
            yield ast.AugAssign(target, _OPERATORS[type(op)](), value)
        case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.Invert(), operand=operand):
            yield copy.copy(operand)
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value) | float(value)):
            yield ast.Constant(value + 1)
        case ast.Constant(value=str(value)):
            yield ast.Constant("" if value else "mutant")
        case ast.JoinedStr():
            yield ast.Constant("")
        case ast.Return(value=ast.expr() as value) if not (isinstance(value, ast.Constant) and value.value is None):
            yield ast.Return(ast.Constant(None))
        case ast.Expr(value=ast.Call()):
            yield ast.Pass()
        case ast.Break():
            yield ast.Continue()
        case ast.Continue():
            yield ast.Break()


def _only_says(function: ast.FunctionDef) -> bool:
    """Whether a function, of a protocol, has a docstring and no more."""
    return len(function.body) == 1 and isinstance(function.body[0], ast.Expr)


def _is_type(node: ast.Assign | ast.AnnAssign) -> bool:
    return isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation) == "TypeAlias"
