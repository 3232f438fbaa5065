"""Build the Ollama server that tests run against, unless it is there already.

    python3 requirements/ollama.py .ollama

It comes from Go's modules, pinned by version and checksum, and needs Go and a C++ compiler. The module lacks three
headers of other projects: two come from Debian packages, the third from the source archive of a Python package, pinned
with its hash. A stamp names what the server was built from; where it fits, nothing is done. Minutes the first time,
seconds from Go's cache.
"""

import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
MODULE, VERSION = "github.com/ollama/ollama", "0.24.0"
SUM = "h1:CBZ0ffE+cxMWRWau5yD5vXHkiZHAeuxLk+3j55u0XxQ="
OWN_GO, FETCHING_GO = (1, 26), (1, 21)
"""The Go that builds it, and the oldest that fetches that one by itself."""

HEADERS = ("nlohmann/json.hpp", "nlohmann/json_fwd.hpp", "stb/stb_image.h")
MINIAUDIO = HERE / "miniaudio.txt"
TOOLS = HERE / "ollama.txt"
"""What pip needs to look into miniaudio's source archive; nothing of it is compiled."""

X86_V3 = {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe"}


def main(folder):
    """Bring `folder`/bin/ollama up to date. No annotations: an old Python must get to the check."""
    if sys.version_info < (3, 11):
        leave(f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}", "make PYTHON=python3.12 ...")
    folder, flags = Path(folder).resolve(), compiler_flags()
    binary, built = folder / "bin" / "ollama", folder / "built.stamp"
    wanted = stamp(Path(__file__).read_text(encoding="utf-8"), MINIAUDIO.read_text(encoding="utf-8"), flags)
    if binary.is_file() and holds(built, wanted):
        return
    settings = {"GOTOOLCHAIN": "auto", **os.environ}
    check_go(settings)
    check_compiler(settings)
    folder.mkdir(parents=True, exist_ok=True)
    flags += " " + shlex.quote(f"-I{miniaudio(cache())}")
    sys.stderr.write(f"building Ollama {VERSION} in {folder} (minutes the first time)\n")
    check_sum(settings)
    build(folder, {**settings, "CGO_CFLAGS": flags, "CGO_CXXFLAGS": flags, "GOBIN": str(folder / "new")})
    (folder / "bin").mkdir(exist_ok=True)
    (folder / "new" / "ollama").replace(binary)
    built.write_text(wanted, encoding="utf-8")


def cache():
    """A place that is the same for every checkout: Go's cache knows what it compiled by the folders of headers, too."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hybrid" / "ollama-build"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def compiler_flags():
    """Without them the server is four times slower: the module leaves the choice to whoever compiles."""
    if platform.system() != "Linux":
        return "-O3"
    if platform.machine() != "x86_64":
        return "-O3 -march=native"
    words = set(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split())
    return "-O3 -march=x86-64-v3" if words >= X86_V3 else "-O3 -march=native"


def check_go(settings):
    """Leave when Go is missing or too old."""
    wanted = ".".join(map(str, OWN_GO))
    get = "Debian and Ubuntu: apt install golang-go; macOS: brew install go; elsewhere as Go's site says"
    if shutil.which("go") is None:
        leave(f"Go is missing: Ollama is built with Go {wanted}", get)
    said = ask(["go", "env", "GOVERSION"], {**settings, "GOTOOLCHAIN": "local"})
    found = tuple(map(int, re.findall(r"\d+", said)[:2]))
    if found < FETCHING_GO:
        leave(f"this Go is too old: {said}; {wanted} is needed, and from 1.21 on Go fetches it by itself", get)
    if found < OWN_GO and settings["GOTOOLCHAIN"] == "local":
        leave(f"this Go is {said} and GOTOOLCHAIN=local keeps it from fetching {wanted}", "unset GOTOOLCHAIN")


def check_compiler(settings):
    """Leave when the C++ compiler or a header is missing."""
    compiler = shlex.split(ask(["go", "env", "CXX"], settings))
    if not compiler or shutil.which(compiler[0]) is None:
        leave("a C++ compiler is missing", "Debian and Ubuntu: apt install g++; macOS: xcode-select --install")
    for header in HEADERS:
        look = subprocess.run(
            [*compiler, "-E", "-x", "c++", "-", "-o", os.devnull],
            input=f"#include <{header}>\n".encode(),
            capture_output=True,
            check=False,
        )
        if look.returncode:
            leave(f"the header {header} is missing", "Debian and Ubuntu: apt install nlohmann-json3-dev libstb-dev")


def miniaudio(folder):
    """The folder that holds miniaudio/miniaudio.h, from the pinned source archive; fetched once."""
    name, version = re.match(r"(\w+)==([\d.]+)", MINIAUDIO.read_text(encoding="utf-8")).groups()
    source = folder / f"{name}-{version}"
    header = source / "miniaudio" / "miniaudio.h"
    if header.is_file():
        return source
    tools = folder / "tools"
    run([sys.executable, HERE / "environment.py", tools, TOOLS])
    python = tools / "bin" / "python"
    fetch = [python, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    archive = ["--no-build-isolation", "--no-binary", ":all:", "--require-hashes", "-r", MINIAUDIO, "-d", folder]
    run([*fetch, *archive])
    with tarfile.open(folder / f"{name}-{version}.tar.gz") as packed:
        text = packed.extractfile(f"{name}-{version}/miniaudio/miniaudio.h").read()
    header.parent.mkdir(parents=True, exist_ok=True)
    draft = header.with_suffix(f".{os.getpid()}")
    draft.write_bytes(text)
    draft.replace(header)
    return source


def check_sum(settings):
    """Leave when Go's module is not, byte for byte, the one that was tried."""
    said = ask(["go", "mod", "download", "-json", f"{MODULE}@v{VERSION}"], settings)
    if f'"{SUM}"' not in said:
        leave(f"{MODULE} {VERSION} is not the pinned one", "what does `go env GOPROXY` name?")


def build(folder, settings):
    """Compile, with the compiler's many words in a log. Leave when it fails."""
    command = ["go", "install", "-ldflags", f"-X={MODULE}/version.Version={VERSION}", f"{MODULE}@v{VERSION}"]
    log = folder / "build.log"
    with log.open("wb") as words:
        done = subprocess.run(command, env=settings, stdout=words, stderr=words, check=False)
    if done.returncode:
        sys.stderr.write("".join(log.read_text(errors="replace").splitlines(keepends=True)[-15:]))
        leave("Ollama could not be built, see above", f"all of it: {log}")


def ask(command, settings):
    """What a command prints; leave when it fails."""
    done = subprocess.run(command, env=settings, capture_output=True, text=True, check=False)
    if done.returncode:
        leave(f"`{' '.join(command)}` failed", (done.stderr or done.stdout).strip()[-500:])
    return done.stdout.strip()


def run(command):
    """Run and wait; leave when it fails."""
    if subprocess.run(list(map(str, command)), check=False).returncode:
        leave("that failed, see above", "the same command again starts over with what was already fetched")


def stamp(*parts):
    """The sha256 of texts, in hex."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def holds(path, text):
    """True when the file at `path` is there and is `text`."""
    return path.is_file() and path.read_text(encoding="utf-8") == text


def leave(message, hint):
    """Say what is wrong and what to do, and end."""
    sys.exit(f"error: {message}\nhint: {hint}")


if __name__ == "__main__":
    main(sys.argv[1])
