"""DuckDB expressions over the columns of a row: read without being run, then evaluated on Arrow tables.

An expression's value for a row must depend on that row alone. Sub-queries, aggregates, window functions and functions
whose value changes from call to call are refused, by DuckDB's own parser and its catalog of functions. DuckDB is given
no access to files or the network, and its settings are locked.

Every FilterError raised here is a clause about the expression ("uses random(), ..."); the caller puts before it which
expression that is.
"""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from magpie import machine
from magpie.errors import FilterError
from magpie.steps.filter.limits import MOST_MEMORY, within_limits

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

Mask = np.ndarray[Any, np.dtype[np.bool_]]
Positions = np.ndarray[Any, np.dtype[np.int64]]

_MOST_THREADS = 8
_LONGEST_MESSAGE = 240
_NOT_OF_ONE_ROW = {
    "SUBQUERY": "a sub-query",
    "WINDOW": "a window function",
    "PARAMETER": "a parameter",
    "STAR": "`*` or COLUMNS",
    "POSITIONAL_REFERENCE": "a column by its number",
    "DEFAULT": "DEFAULT",
}
_MAKES_ROWS = {"unnest", "unlist"}


@functools.cache
def columns_read(expression: str) -> frozenset[str]:
    """The columns an expression reads, in lower case, as the columns of a run are written.

    Raises FilterError when it is not one expression, or its value for a row depends on more than that row.
    """
    columns, functions = _scan(_parse(expression))
    changing = sorted(functions & _functions_of_more_than_a_row())
    if changing:
        raise FilterError(
            f"uses {changing[0]}(), whose value does not follow from the row alone; "
            "use functions of the row's own columns"
        )
    return columns


class RowValues:
    """The values of expressions for the rows of a table where `live` is true, and for no others.

    Only the columns in `columns` are given to DuckDB.
    """

    def __init__(self, rows: pa.Table, columns: frozenset[str], live: Mask | None = None) -> None:
        table = {name: _for_duckdb(rows[name]) for name in rows.column_names if name in columns | {"index"}}
        # The position, because DuckDB works on many threads and promises no order of the rows that it returns.
        table["__at"] = pa.array(np.arange(rows.num_rows))
        table["__live"] = pa.array(np.ones(rows.num_rows, dtype=np.bool_) if live is None else live)
        self._table = pa.table(table)

    def type_of(self, expression: str) -> str:
        """The expression's type, as DuckDB names it."""
        kind = self._select(f"({expression}\n) AS v", before="DESCRIBE ")["column_type"][0].as_py()
        # DESCRIBE runs nothing. Evaluating it also finds constants that fail, such as CAST('x' AS INTEGER).
        self.values(expression)
        return str(kind)

    def values(self, expression: str) -> pa.Array:
        """The expression's value for each row of the table, in its order; null for the rows that are not live."""
        result = self._select(f'"__at", {_if_live(expression)} AS v')
        at = result["__at"].to_numpy()
        if not (at[1:] > at[:-1]).all():
            result = result.take(np.argsort(at))
        return result["v"].combine_chunks()

    def order(self, expression: str | None = None, *, descending: bool = True) -> Positions:
        """The positions of the live rows, by the expression's value, nulls last, and by `index` among equals."""
        value = "0" if expression is None else _if_live(expression)
        direction = "DESC" if descending else "ASC"
        # The value is computed in a query of its own: in ORDER BY, an expression such as 1 would mean the first column.
        result = self._select(
            f'"__at", "__live", "index", {value} AS v',
            before='SELECT "__at" FROM (',
            after=f') WHERE "__live" ORDER BY v {direction} NULLS LAST, "index", "__at"',
        )
        return np.asarray(result["__at"].to_numpy())

    def _select(self, columns: str, *, before: str = "", after: str = "") -> pa.Table:
        import duckdb

        query = f"{before}SELECT {columns} FROM run{after}"  # noqa: S608 - each expression passed _parse
        # Not in a `with`: closing a cursor waits for its query, and one that is given up may go on for long.
        cursor = _database().cursor()
        try:
            cursor.register("run", self._table)
            result = within_limits(
                cursor, lambda: cursor.sql(query).to_arrow_table(), rows=self._table.num_rows
            )
        except (duckdb.Error, pa.ArrowException, MemoryError) as error:
            raise FilterError(f"fails: {_first_line(error)}") from error
        cursor.close()
        return result


def _if_live(expression: str) -> str:
    """The expression, which is evaluated only on live rows."""
    # CASE evaluates its branch on no other row: a rule may rely on what the rules before it have excluded. A WHERE
    # gives no such promise. The line break ends a `--` comment in the expression before the bracket.
    return f'CASE WHEN "__live" THEN ({expression}\n) END'


def _parse(expression: str) -> Any:
    """DuckDB's parse tree of the expression."""
    # It must parse with brackets around it and without. `a) OR (b` parses only with brackets: it would close ours. And
    # `a ORDER BY b` parses only without: it adds a clause. Both together leave nothing but one expression.
    bare, bracketed = _serialize(expression), _serialize(f"({expression}\n)")
    for tree in (bracketed, bare):
        if tree.get("error"):
            raise FilterError(f"is not one SQL expression: {tree.get('error_message', 'it is empty')}")
    if len(bracketed["statements"]) != 1 or len(bare["statements"]) != 1:
        raise FilterError("holds more than one statement; write one expression")
    return bracketed["statements"][0]["node"]["where_clause"]


def _serialize(condition: str) -> Any:
    """What DuckDB's parser makes of a query with this condition; nothing is run."""
    import duckdb

    query = f"SELECT 1 FROM run WHERE {condition}\n"  # noqa: S608 - parsed only
    try:
        with _database().cursor() as cursor:
            row = cursor.execute("SELECT json_serialize_sql(?::VARCHAR)", [query]).fetchone()
        return json.loads(row[0])
    except duckdb.Error as error:
        raise FilterError(f"is not one SQL expression: {_first_line(error)}") from error
    except RecursionError:
        raise FilterError("is nested too deeply; write it as several rules") from None


def _scan(tree: Any) -> tuple[frozenset[str], frozenset[str]]:
    """The columns and the functions named in a parse tree, in lower case."""
    columns: set[str] = set()
    functions: set[str] = set()
    # A stack, since expressions may be nested deeper than Python's recursion goes. `bound` are the parameters of the
    # lambdas around a node: such a name is no column.
    stack: list[tuple[Any, frozenset[str]]] = [(tree, frozenset())]
    while stack:
        node, bound = stack.pop()
        if isinstance(node, list):
            stack.extend((part, bound) for part in node)
        if not isinstance(node, dict):
            continue
        kind = node.get("class")
        if kind in _NOT_OF_ONE_ROW:
            raise FilterError(f"holds {_NOT_OF_ONE_ROW[kind]}; write a condition on the row's own columns")
        if kind == "COLUMN_REF":
            # Of a.b.c only a can be a column: there is one table, and the rest are fields of a struct.
            columns |= {node["column_names"][0].lower()} - bound
        if kind == "FUNCTION":
            functions.add(node["function_name"].lower())
            # The catalog calls age() consistent, which it is with two arguments.
            if node["function_name"].lower() == "age" and len(node["arguments"]) < 2:
                raise FilterError("uses age() of one date, which counts from today; write age(a, b)")
            # `instruction.length()` means length(instruction), and is parsed as a function of the schema `instruction`.
            owner = node.get("catalog") or node.get("schema")
            columns |= {owner.lower()} - bound if owner else set()
        # A single arrow is parsed as a lambda, but reads JSON, because _database switches that syntax off.
        if kind == "LAMBDA" and node.get("syntax_type") != "SINGLE_ARROW":
            parameters, _ = _scan(node["lhs"])
            stack.append((node["expr"], bound | parameters))
            continue
        stack.extend((part, bound) for part in node.values())
    return frozenset(columns), frozenset(functions)


@functools.cache
def _functions_of_more_than_a_row() -> frozenset[str]:
    """Aggregates, window functions, functions that change from call to call, and macros made of any of these."""
    with _database().cursor() as cursor:
        catalog = cursor.execute(
            "SELECT lower(function_name), function_type, stability, macro_definition, parameters "
            "FROM duckdb_functions() WHERE function_type IN ('scalar', 'macro', 'aggregate', 'window')"
        ).fetchall()
    refused = set(_MAKES_ROWS)
    macros: list[tuple[str, frozenset[str]]] = []
    # A function has an entry for each combination of argument types, and each entry its own stability.
    stabilities: dict[str, set[str]] = {}
    for name, kind, stability, definition, parameters in catalog:
        if kind == "macro":
            used = _functions_of_macro(definition, parameters)
            macros.append((name, used or frozenset()))
            refused |= {name} if used is None else set()
        elif kind == "scalar":
            stabilities.setdefault(name, set()).add(stability)
        else:
            refused.add(name)
    # A function that is consistent for some types of argument only, such as + and year(), depends on the session's time
    # zone for the others, and that is set to UTC. now() and random() are consistent for no type.
    refused |= {name for name, seen in stabilities.items() if "VOLATILE" in seen or "CONSISTENT" not in seen}
    # Macros may use macros: repeat until no further one is refused.
    while True:
        more = {name for name, used in macros if name not in refused and used & refused}
        if not more:
            return frozenset(refused)
        refused |= more


def _functions_of_macro(definition: str, parameters: list[str]) -> frozenset[str] | None:
    """The functions a macro uses; None when it reads more than its parameters."""
    try:
        columns, functions = _scan(_parse(definition))
    except FilterError:
        return None  # such as a macro that holds a sub-query
    return functions if columns <= {parameter.lower() for parameter in parameters} else None


@functools.cache
def _database() -> DuckDBPyConnection:
    """One database in memory for the process; every use takes a cursor of its own."""
    import duckdb

    database = duckdb.connect(
        ":memory:",
        config={
            # No file and no network: expressions come from files that people share.
            "enable_external_access": "false",
            # Else an unknown table name would be looked up among Python's variables.
            "python_enable_replacements": "false",
            "temp_directory": "",
            "threads": str(min(_MOST_THREADS, machine.processors())),
            "memory_limit": f"{MOST_MEMORY >> 20}MiB",
        },
    )
    database.execute("SET TimeZone = 'UTC'")  # the same rows are kept on every machine
    # `x -> x > 1` could be a lambda or read JSON, depending on the place; lambdas are written `lambda x: x > 1`.
    database.execute("SET lambda_syntax = 'DISABLE_SINGLE_ARROW'")
    database.execute("SET lock_configuration = true")
    return database


def _for_duckdb(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column as DuckDB gets it: null for NaN, and float32 for float16, a type that it does not have."""
    if not pa.types.is_floating(column.type):
        return column
    if pa.types.is_float16(column.type):
        column = column.cast(pa.float32())
    # To DuckDB, NaN is larger than every number: a row without a usable reward would pass `reward > 0`.
    return pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)


def _first_line(error: Exception) -> str:
    """The first line of DuckDB's message, without control characters: it may quote a row."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    line = "".join(char for char in lines[0] if char.isprintable())
    return line if len(line) <= _LONGEST_MESSAGE else f"{line[:_LONGEST_MESSAGE]}..."
