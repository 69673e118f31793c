"""Lines of code and crowded folders of packages.

A line of code is one that bears a token of the program: no blank line, no comment, no line of a docstring. A
docstring is any string that stands alone as a statement, so those below attributes are such, too. In Lua, it is a
line that is neither blank nor a comment.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path

_NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}
_LUA_COMMENT = re.compile(r"--\[\[.*?\]\]|--[^\n]*", re.DOTALL)


def python_lines(text: str) -> int:
    """Lines of code of a module."""
    lines = text.splitlines()
    code = {
        line
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type not in _NO_CODE
        for line in range(token.start[0], token.end[0] + 1)
    }
    documents = {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    return sum(bool(lines[line - 1].strip()) for line in code - documents)


def lua_lines(text: str) -> int:
    """Lines of code of a script."""
    return sum(bool(line.strip()) for line in _LUA_COMMENT.sub("", text).splitlines())


def code_lines(packages: Iterable[Path]) -> int:
    """Lines of code of all modules and scripts of packages."""
    count = 0
    for package in packages:
        count += sum(python_lines(path.read_text()) for path in package.rglob("*.py"))
        count += sum(lua_lines(path.read_text()) for path in package.rglob("*.lua"))
    return count


def crowded(packages: Iterable[Path], most: int = 12) -> Iterator[Path]:
    """Folders, at any depth, with more modules than that at one level; ``__init__.py`` is not counted."""
    for package in packages:
        for folder in sorted({path.parent for path in package.rglob("*.py")}):
            if sum(path.name != "__init__.py" for path in folder.glob("*.py")) > most:
                yield folder
