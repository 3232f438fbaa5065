"""Make a virtual environment with the packages of one requirement file, unless it is there already.

    python3 requirements/environment.py .venv-demo requirements/demo.txt

Every package is pinned with its hash and nothing else is looked up (`--no-deps`); the project itself is installed
editable, built by what the file pins. Two stamps in the environment name what it was made from: the requirement file,
the place and the Python, and for the project its pyproject.toml. Where they fit, nothing is done.
"""

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PIP = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-compile")
"""Python compiles a module when it is first imported: a few thousand of the 30,000 files that pip would compile."""


def main(folder, requirements):
    """Bring the environment in `folder` up to `requirements`. No annotations: an old Python must get to the check."""
    if sys.version_info < (3, 11):
        leave(f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}", "make PYTHON=python3.12 ...")
    python = Path(folder, "Scripts", "python.exe") if os.name == "nt" else Path(folder, "bin", "python")
    pinned = Path(requirements).read_text(encoding="utf-8")
    packages = Path(folder, "packages.stamp")
    wanted = stamp(pinned, str(Path(folder).resolve()), sys.version)
    if not holds(packages, wanted):
        sys.stderr.write(f"making {folder} from {requirements} (only this once)\n")
        create(folder)
        run([python, *PIP, "--require-hashes", "-r", requirements])
        packages.write_text(wanted, encoding="utf-8")
    project = Path(folder, "project.stamp")
    wanted = stamp((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    if "hatchling==" in pinned and not holds(project, wanted):
        run([python, *PIP, "--no-build-isolation", "--editable", ROOT])
        project.write_text(wanted, encoding="utf-8")


def stamp(*parts):
    """The sha256 of texts, in hex."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def holds(path, text):
    """True when the file at `path` is there and is `text`."""
    return path.is_file() and path.read_text(encoding="utf-8") == text


def create(folder):
    """An empty environment in `folder`."""
    try:
        venv.create(folder, clear=True, with_pip=True)
    except subprocess.CalledProcessError:
        leave("this Python cannot make virtual environments", "on Debian and Ubuntu: apt install python3-venv")


def run(command):
    """Run pip and wait; leave when it fails."""
    if subprocess.run(list(map(str, command)), check=False).returncode:
        leave("pip failed, see above", "the same command again starts over with what was already fetched")


def leave(message, hint):
    """Say what is wrong and what to do, and end."""
    sys.exit(f"error: {message}\nhint: {hint}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
