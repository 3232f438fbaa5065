"""The cell of a notebook that finds the shared folder in an object store, whose keys are in the machine's environment.

hybrid reads the store later; its wheel is in there, so until then `obstore` alone does, of the version that was tested.
"""

from __future__ import annotations

from importlib.resources import files

from hybrid.folder.object_store import KEYS

EXTRA = "s3"

FOLDER = r'''
import shutil

READ = """
import os, re, sys
from datetime import timedelta

import obstore
from obstore.store import from_url

url, path, limit = sys.argv[1], sys.argv[2], int(sys.argv[3])
endpoint = next(filter(None, map(os.environ.get, ("AWS_ENDPOINT_URL", "AWS_ENDPOINT", "AWS_ENDPOINT_URL_S3"))), "")
own = re.match(r"http://(localhost|127[.]0[.]0[.]1|\\[::1\\])(:|/|$)", endpoint) is not None
plain = {"allow_http": True} if own or os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true", "yes") else {}
options = {"timeout": timedelta(seconds=60), "connect_timeout": timedelta(seconds=10), **plain}
try:
    found = obstore.get(from_url(url, client_options=options), path)
    if found.meta["size"] > limit:
        sys.exit("it is larger than it may be")
    sys.stdout.buffer.write(bytes(found.bytes()))
except Exception as error:  # its own words may hold a key
    sys.exit({"NotFoundError": "no such file"}.get(type(error).__name__, type(error).__name__))
"""


def reader():
    """A Python that has obstore, as the beginning of a command, and what it needs in its environment."""
    if PYTHON:
        return [PYTHON, "-c", READ], environment()
    known = sys.platform == "linux" and os.uname().machine == "x86_64"
    lines = STORE_PINS.get(f"{sys.version_info[0]}.{sys.version_info[1]}") if known else None
    place = LOCAL / f"store-reader-{hashlib.sha256(repr((lines, sys.version)).encode()).hexdigest()[:16]}"
    found = environment(PYTHONPATH=str(place))
    if not place.is_dir():
        print("installing what reads the store", flush=True)
        making = place.with_name(f"{place.name}.{os.getpid()}")
        making.mkdir(parents=True, exist_ok=True)
        listed = making / "pins.txt"
        listed.write_text("\n".join(lines or ["obstore>=0.8"]))
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
        exactly = ["--no-deps", "--require-hashes"] if lines else []
        if run(*pip, *exactly, "--target", making / "packages", "-r", listed):
            raise Stop("what reads the store cannot be installed, see above. Run all cells again.")
        try:
            (making / "packages").replace(place)
        except OSError:  # another process of this machine was faster
            pass
        shutil.rmtree(making, ignore_errors=True)
    return [sys.executable, "-c", READ], found


def read_of(path, limit):
    """A file of the shared folder, of at most `limit` bytes. Raises OSError."""
    done = subprocess.run([*READER, FOLDER, path, str(limit)], env=READS_WITH, capture_output=True)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise OSError(5, said[-1][:300] if said else "it cannot be read")
    return done.stdout


if not any(os.environ.get(name) for name in STORE_KEYS):
    raise Stop(f"the environment of this machine has no keys for {FOLDER}. Set {STORE_KEYS[0]} and what belongs to it.")
READER, READS_WITH = reader()
look_at_folder("Are bucket and prefix right, and may these keys read there? Then run all cells again.")
'''


def pins() -> dict[str, list[str]]:
    """Python version -> requirements with hashes of what reads the store."""
    found = {}
    for path in files("hybrid.notebook").joinpath("pins").iterdir():
        lines = [line.partition("#") for line in path.read_text(encoding="utf-8").splitlines()]
        found[path.name.removesuffix(".txt")] = [line.strip() for line, _, of in lines if EXTRA in of.split()]
    return dict(sorted(found.items()))


def keys(url: str) -> list[str]:
    """The variables of which one has to be set for the store at this URL."""
    return list(KEYS[url.partition(":")[0]])
