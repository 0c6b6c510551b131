"""One column out of the included ones, which are kept as the text of a JSON object."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, ColumnElement, Text, cast, func
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement


class _Column(FunctionElement[str]):
    """Said differently by the two databases of a state."""

    name = "included_column"
    inherit_cache = True
    type = Text()


@compiles(_Column, "sqlite")
def _sqlite(element: _Column, compiler: Any, **options: Any) -> str:
    included, column = element.clauses
    path = func.printf('$."%s"', column)
    return str(compiler.process(func.json_extract(included, path), **options))


@compiles(_Column, "postgresql")
def _postgresql(element: _Column, compiler: Any, **options: Any) -> str:
    included, column = element.clauses
    return str(compiler.process(func.json_extract_path_text(cast(included, JSON), cast(column, Text)), **options))


def included_column(included: ColumnElement[Any], column: str) -> ColumnElement[str]:
    """The value of one included column as text; NULL where it is not there."""
    return _Column(included, column)
