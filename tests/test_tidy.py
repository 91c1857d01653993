"""The conventions that no other tool checks. Each test names every place that breaks one."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent
SOURCE: Final = ("lua", "persistence", "sidecar", "loadtests", "clients")
LONGEST_FUNCTION: Final = 40
LONGEST_MODULE: Final = 300

# Lists of declarations, one after the other: there is nothing in them to take apart.
_DECLARATIONS: Final = {
    "persistence/migrations/ledger_sql.py",
    "persistence/migrations/money_sql.py",
    "persistence/tables.py",
    "sidecar/metrics.py",
}
_READS_ENVIRONMENT: Final = {"sidecar/commands/environment.py"}
_TEXT: Final = {".py", ".lua", ".md", ".toml", ".yml", ".yaml", ".json", ".mako", ".ini", ".cfg"}
_METRIC_TYPES: Final = {"Counter", "Gauge", "Histogram", "Summary", "Info", "Enum"}
_DURATION: Final = re.compile(r"(latency|duration|time)$")

type_of_function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def modules(*folders: str) -> tuple[tuple[str, ast.Module], ...]:
    """Return the path and the syntax tree of each Python file in some folders."""
    paths = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return tuple((path.relative_to(ROOT).as_posix(), ast.parse(path.read_text())) for path in paths)


def functions(*folders: str) -> Iterator[tuple[str, type_of_function]]:
    """Yield each function of some folders with its place."""
    for path, tree in modules(*folders):
        for node in ast.walk(tree):
            if isinstance(node, type_of_function):
                yield f"{path}:{node.lineno} {node.name}", node


def test_no_function_is_longer_than_40_lines() -> None:
    lengths = {
        place: (node.end_lineno or node.lineno) - node.lineno + 1
        for place, node in functions(*SOURCE)
        if place.partition(":")[0] not in _DECLARATIONS
    }
    assert {place: n for place, n in lengths.items() if n > LONGEST_FUNCTION} == {}


def test_no_module_is_longer_than_300_lines() -> None:
    lengths = {
        path: len((ROOT / path).read_text().splitlines())
        for path, _ in modules(*SOURCE)
        if path not in _DECLARATIONS
    }
    assert {path: n for path, n in lengths.items() if n > LONGEST_MODULE} == {}


def test_every_module_says_what_it_is() -> None:
    everything = modules(*SOURCE, "tests")
    assert [path for path, tree in everything if not ast.get_docstring(tree)] == []


def test_every_public_class_and_function_is_documented() -> None:
    bare = [
        f"{path}:{node.lineno} {node.name}"
        for path, tree in modules(*SOURCE)
        for node in _public(tree)
        if not ast.get_docstring(node)
    ]
    assert bare == []


def test_the_environment_is_read_in_one_place() -> None:
    readers = {
        path
        for path, tree in modules(*SOURCE)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "environb", "getenv")
    }
    assert readers <= _READS_ENVIRONMENT


def test_nothing_is_left_for_later() -> None:
    marks = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in _texts()
        if path != Path(__file__)
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if marks.search(line)
    ]
    assert found == []


def test_metrics_are_declared_in_one_module_with_the_prefix_and_the_unit() -> None:
    for path, node in _metric_calls():
        assert path == "sidecar/metrics.py", f"{path}:{node.lineno} declares a metric"
        name = node.args[0]
        assert isinstance(name, ast.Constant)
        assert isinstance(name.value, str)
        assert name.value.startswith("credits_"), name.value
        is_counter = isinstance(node.func, ast.Name) and node.func.id == "Counter"
        assert name.value.endswith("_total") == is_counter, name.value
        assert not _DURATION.search(name.value), f"{name.value} has no unit"


def test_no_metric_has_a_label_for_accounts() -> None:
    for path, node in _metric_calls():
        labels = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant)]
        assert not {"account", "id"} & set(labels), f"{path}:{node.lineno}"


def test_prices_and_the_words_of_the_domain_import_the_standard_library_only() -> None:
    ours = {"sidecar.domain", "sidecar.errors", "sidecar.pricing"}
    allowed = sys.stdlib_module_names
    for path, tree in modules("sidecar/pricing"):
        assert [name for name in _imports(tree) if _top(name) not in allowed | ours] == [], path
    domain = dict(modules("sidecar"))["sidecar/domain.py"]
    assert [name for name in _imports(domain) if name.split(".")[0] not in allowed] == []


def test_a_test_never_sleeps_to_wait_for_something_once() -> None:
    # In a polling loop with a deadline a short sleep is fine; anywhere else it is a guess.
    guesses = [
        f"{path}:{node.lineno}"
        for path, tree in modules("tests")
        for node in _outside_loops(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "sleep"
    ]
    assert guesses == []


def _public(tree: ast.Module) -> Iterator[type_of_function | ast.ClassDef]:
    nodes: list[ast.stmt] = list(tree.body)
    while nodes:
        node = nodes.pop(0)
        if not isinstance(node, type_of_function | ast.ClassDef) or node.name.startswith("_"):
            continue
        yield node
        if isinstance(node, ast.ClassDef):
            nodes += node.body


def _metric_calls() -> Iterator[tuple[str, ast.Call]]:
    for path, tree in modules("persistence", "sidecar"):
        imported = {
            alias.asname or alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module == "prometheus_client"
            for alias in node.names
        }
        for node in ast.walk(tree):
            name = node.func if isinstance(node, ast.Call) else None
            if isinstance(name, ast.Name) and name.id in _METRIC_TYPES & imported:
                assert isinstance(node, ast.Call)
                yield path, node


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or "."


def _top(name: str) -> str:
    return ".".join(name.split(".")[:2]) if name.startswith("sidecar") else name.split(".")[0]


def _outside_loops(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.While | ast.For | ast.AsyncFor):
            yield child
            yield from _outside_loops(child)


def _texts() -> Iterator[Path]:
    for folder in (*SOURCE, "tests", "docs", "deploy"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and path.suffix in _TEXT:
                yield path
    yield from (path for path in sorted(ROOT.iterdir()) if path.suffix in _TEXT)
