"""The packages that hybrid needs and an environment lacks, or has in a version that does not fit.

A notebook that uses the torch of its site runs this text there with hybrid alone installed: so it needs the standard
library and pip only.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, requires, version

try:
    from packaging.requirements import Requirement
except ImportError:
    from pip._vendor.packaging.requirements import Requirement  # type: ignore[no-redef,assignment,import-not-found,unused-ignore]

BUILT_BY_THE_SITE = {"torch"}
"""Its libraries are the site's business: a build of the site's own may not name them as packages."""


def missing(package: str, extras: Iterable[str]) -> list[str]:
    """Normalized names of what `package` with its extras lacks here, over all that it depends on that is here."""
    left: list[tuple[str, frozenset[str]]] = [(package, frozenset(extras))]
    seen: set[tuple[str, frozenset[str]]] = set()
    lacking: set[str] = set()
    while left:
        one = left.pop()
        if one in seen or one[0] in BUILT_BY_THE_SITE:
            continue
        seen.add(one)
        for wanted in _needs(*one):
            name = re.sub(r"[-_.]+", "-", wanted.name).lower()
            if _fits(wanted, name):
                left.append((name, frozenset(wanted.extras)))
            else:
                lacking.add(name)
    return sorted(lacking)


def _needs(package: str, extras: frozenset[str]) -> Iterable[Requirement]:
    for text in requires(package) or ():
        wanted = Requirement(text)
        if wanted.marker is None or any(wanted.marker.evaluate({"extra": extra}) for extra in extras or {""}):
            yield wanted


def _fits(wanted: Requirement, name: str) -> bool:
    try:
        return wanted.specifier.contains(version(name), prereleases=True)
    except PackageNotFoundError:
        return False


if __name__ == "__main__":
    print("\n".join(missing(sys.argv[1], filter(None, sys.argv[2].split(",")))))  # noqa: T201 - read by the notebook
