"""The source of the three packages, for tests of their structure."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec, resolve_name
from pathlib import Path

PACKAGES = ("trainwire_protocol", "trainwire", "trainwire_sinks")


@dataclass(frozen=True)
class Module:
    """A module of one of the packages."""

    name: str
    path: Path

    @property
    def tree(self) -> ast.Module:
        """Its syntax tree."""
        return ast.parse(self.path.read_bytes(), self.path)

    def imports(self) -> set[str]:
        """Return everything that it imports, at any depth: for `from a import b` both `a` and `a.b`."""
        names: set[str] = set()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                package = self.name if self.path.name == "__init__.py" else self.name.rpartition(".")[0]
                origin = resolve_name("." * node.level + (node.module or ""), package)
                names |= {origin} | {f"{origin}.{alias.name}" for alias in node.names}
        return names


def modules(*packages: str) -> Iterator[Module]:
    """Yield the modules of these packages, or of all packages."""
    for package in packages or PACKAGES:
        spec = find_spec(package)
        assert spec and spec.submodule_search_locations
        root = Path(spec.submodule_search_locations[0])
        for path in sorted(root.rglob("*.py")):
            parts = path.relative_to(root.parent).with_suffix("").parts
            yield Module(".".join(parts[:-1] if parts[-1] == "__init__" else parts), path)


def top_level(names: set[str]) -> set[str]:
    """Return the top-level packages of these names."""
    return {name.partition(".")[0] for name in names}
