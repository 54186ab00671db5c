"""Small mutations of Python source, found with ``ast`` and applied to its text.

Each is one of these changes: a comparison to its neighbour or opposite (``<`` and ``<=``, ``==`` and ``!=``, ``is``,
``in``), ``and`` and ``or``, a ``not`` removed or added to a condition, an arithmetic operator, a whole number plus
one, a floating point number doubled (0.0 becomes 1.0), ``True`` and ``False``, a call whose value is not used removed,
and ``return None`` in place of a value.
Not mutated: strings, annotations, decorators, class arguments (``frozen``), f-strings, and ``strict`` of ``zip``.
"""

import ast
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

COMPARISONS = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
ARITHMETIC = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
}
BINDS_LOOSELY = (ast.BoolOp, ast.IfExp, ast.Lambda, ast.NamedExpr)
PLAIN_CONDITIONS = (ast.Name, ast.Attribute, ast.Call, ast.Await)


@dataclass(frozen=True)
class Mutation:
    """One change of one file. The identifier survives changes of other functions."""

    file: str
    function: str
    first_line: int
    last_line: int
    before: str
    after: str
    source: str
    """The whole file after the change."""
    at_import: bool = False
    """Whether the line runs during import: of a module, of a class, or a default value of a parameter."""
    number: int = 0
    """Number among the equal changes of the function."""

    @property
    def id(self) -> str:
        key = f"{self.file}|{self.function}|{self.before}|{self.after}|{self.number}"
        return hashlib.sha256(key.encode()).hexdigest()[:8]

    @property
    def in_function(self) -> bool:
        """Whether calls of the function run its lines."""
        return not self.at_import

    def __str__(self) -> str:
        return f"{self.id} {self.file}:{self.first_line} {self.function}\n    - {self.before}\n    + {self.after}"


def find_mutations(source: str, file: str) -> list[Mutation]:
    """Return all mutations of the source of one file."""
    found: list[Mutation] = []
    numbers: dict[tuple[str, str, str], int] = {}
    lines = source.splitlines(keepends=True)
    starts = [0, *accumulate(map(len, lines))]

    def offset(line: int, column: int) -> int:
        """Return the index of a position that ``ast`` reports in UTF-8 bytes."""
        return starts[line - 1] + len(lines[line - 1].encode()[:column].decode())

    for node, new, function, at_import in _visit(ast.parse(source), "", at_import=True):
        start, end = offset(node.lineno, node.col_offset), offset(node.end_lineno, node.end_col_offset)
        mutated = source[:start] + new + source[end:]
        line_start, line_end = source.rfind("\n", 0, start) + 1, source.find("\n", end) % (len(source) + 1)
        before = " ".join(source[line_start:line_end].split())
        after = " ".join((source[line_start:start] + new + source[end:line_end]).split())
        number = numbers[function, before, after] = numbers.get((function, before, after), -1) + 1
        found.append(Mutation(file, function, node.lineno, node.end_lineno, before, after, mutated, at_import, number))
    return found


def find_in_packages(root: Path, packages: list[str]) -> list[Mutation]:
    """Return all mutations of the named packages of ``aluma_async``."""
    files = [path for name in packages for path in sorted((root / "aluma_async" / name).glob("**/*.py"))]
    return [
        mutation
        for path in files
        for mutation in find_mutations(path.read_text("utf-8"), path.relative_to(root).as_posix())
    ]


def _visit(node: ast.AST, function: str, *, at_import: bool) -> Iterator[tuple[ast.AST, str, str, bool]]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        function = f"{function}.{node.name}".strip(".")
    for new in _replacements(node):
        yield node, new, function, at_import
    if isinstance(node, ast.If | ast.While | ast.IfExp) and isinstance(node.test, PLAIN_CONDITIONS):
        yield node.test, _text(ast.UnaryOp(ast.Not(), node.test)), function, at_import
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list") or (isinstance(node, ast.ClassDef) and field != "body"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.JoinedStr) or not isinstance(child, ast.AST):
                continue
            if isinstance(child, ast.keyword) and child.arg == "strict":
                continue
            runs_later = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and field == "body"
            yield from _visit(child, function, at_import=at_import and not runs_later)


def _replacements(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Compare():
            for index, operator in enumerate(node.ops):
                ops = [*node.ops[:index], COMPARISONS[type(operator)](), *node.ops[index + 1 :]]
                yield _text(ast.Compare(node.left, ops, node.comparators))
        case ast.BoolOp():
            yield _text(ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values))
        case ast.UnaryOp(op=ast.Not()):
            yield _text(node.operand)
        case ast.BinOp() if type(node.op) in ARITHMETIC:
            yield _text(ast.BinOp(node.left, ARITHMETIC[type(node.op)](), node.right))
        case ast.AugAssign() if type(node.op) in ARITHMETIC:
            yield ast.unparse(ast.AugAssign(node.target, ARITHMETIC[type(node.op)](), node.value))
        case ast.Constant(value=bool()):
            yield repr(not node.value)
        case ast.Constant(value=int()):
            yield repr(node.value + 1)
        case ast.Constant(value=float()):  # most are times and shares, to which one more may be next to nothing
            yield repr(2 * node.value or 1.0)
        case ast.Expr(value=ast.Call() | ast.Await(value=ast.Call())):
            yield "pass"
        case ast.Return(value=ast.expr()) if not isinstance(node.value, ast.Constant):
            yield "return None"


def _text(expression: ast.expr) -> str:
    text = ast.unparse(ast.fix_missing_locations(expression))
    return f"({text})" if isinstance(expression, BINDS_LOOSELY) else text
