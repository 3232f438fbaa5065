"""The code of a notebook that installs hybrid: what was tested together, or only what the site's own torch lacks."""

from __future__ import annotations

INSTALL = r'''
import importlib.metadata
import platform
import re
import shutil
import zipfile

BYTES_A_MINUTE = 0.8e9  # a rough guess: 0.3e9 was seen on two busy cores, 0.95e9 on two quiet ones
ROOM = 3.2  # bytes of disk while a byte of wheels is installed

def wheel(path, name, sha256, size):
    """A wheel from the shared folder, checked, as a file on this machine's own disk."""
    try:
        data = read_of(path, size + 1)
    except OSError as error:
        raise Stop(f"{path} in {FOLDER} cannot be read, or not yet: {error.strerror}. Run all cells again.") from None
    if hashlib.sha256(data).hexdigest() != sha256:
        raise Stop(
            f"{path} in {FOLDER} is not what this notebook was made with, or has not arrived whole. Nothing was "
            "installed. If it stays so, remove that file and make the notebook anew: hybrid notebook"
        )
    place = LOCAL / sha256[:16] / name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(data)
    return place


def do(*command):
    if run(*command):
        raise Stop("the installation failed, see above. Run all cells again: it starts anew.")


def pip_for(python):
    """A pip that installs for `python`: the notebook's own, since some systems have venv but no pip to put into it."""
    pip = [sys.executable, "-m", "pip", "--python", python]
    if subprocess.run([*pip, "--version"], env=environment(), capture_output=True).returncode:
        do(python, "-m", "ensurepip")
        pip = [python, "-m", "pip"]
    return [*pip, "--disable-pip-version-check", "--no-input", "install", "--quiet"]


def gpu_lines():
    """Name, driver and compute capability of each GPU, as nvidia-smi tells them."""
    ask = ["nvidia-smi", "--query-gpu=name,driver_version,compute_cap", "--format=csv,noheader"]
    try:
        return subprocess.run(ask, capture_output=True, text=True, timeout=30).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return []


def look_at_gpu():
    """Stop before the installation when this machine's GPU cannot be used by what would be installed."""
    if not NEEDS_CUDA:
        return
    said = gpu_lines()
    if not said:  # it may be wanted so
        print("There is no GPU here: it goes on with the CPU, many times slower. " + GPU_ADVICE)
    for line in said:
        print(f"GPU: {line}")
        name, driver, capability = (*line.split(", "), "", "")[:3]
        if capability[:1].isdigit() and float(capability) < OLDEST_GPU:
            raise Stop(f"{name} is too old: torch has no code for compute capability {capability}. {GPU_ADVICE}")
        if driver.split(".")[0].isdigit() and int(driver.split(".")[0]) < OLDEST_DRIVER:
            raise Stop(f"the driver {driver} of {name} is too old: torch needs {OLDEST_DRIVER} or newer. {GPU_ADVICE}")


def pinned(archive):
    """What was tested together for this Python: (requirement with hashes, bytes, the extras that need it). Or None."""
    if PINS == "newest":
        return None
    if PINS:
        text = Path(PINS).expanduser().read_text()
    else:
        name = f"hybrid/notebook/pins/{sys.version_info[0]}.{sys.version_info[1]}.txt"
        with zipfile.ZipFile(archive) as files:  # its bytes were checked
            if name not in files.namelist() or (sys.platform, platform.machine()) != ("linux", "x86_64"):
                return None
            text = files.read(name).decode()
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        requirement, _, about = line.partition("#")
        size, *extras = about.split() or ["0"]
        if requirement.strip():
            found.append((requirement.strip(), int(size) if size.isdigit() else 0, extras))
    return found


def wanted(found):
    """The lines of the pins that EXTRAS and PACKAGES need."""
    groups = {"-", *EXTRAS.split(","), *PACKAGES.replace(",", " ").split()}
    return [line for line in found if not line[2] or groups & set(line[2])]


def name_of(line):
    return re.sub(r"[-_.]+", "-", line[0].partition("==")[0]).lower()


def install_pins(pip, lines):
    """Install exactly these files, each known by its hash; say first how much it is."""
    size = sum(line[1] for line in lines)
    minutes = f"about {max(1, round(size / BYTES_A_MINUTE))} min" if size > BYTES_A_MINUTE else "less than a minute"
    print(f"{len(lines)} packages: {size / 1e6:,.0f} MB to download, {minutes}", flush=True)
    free = shutil.disk_usage(LOCAL).free
    if free < ROOM * size:
        raise Stop(f"no room: about {ROOM * size / 1e9:.1f} GB are needed below {LOCAL}, {free / 1e9:.1f} are free")
    listed = LOCAL / "pins.txt"
    listed.write_text("".join(line[0] + "\n" for line in lines))
    do(*pip, "--no-deps", "--no-cache-dir", "--require-hashes", "-r", listed)


def lacking(python, archive):
    """What hybrid with EXTRAS lacks in that environment, as names."""
    with zipfile.ZipFile(archive) as files:
        text = files.read("hybrid/notebook/missing.py").decode()
    asked = [str(python), "-c", text, "hybrid", EXTRAS]
    done = subprocess.run(asked, env=environment(), capture_output=True, text=True)
    if done.returncode:
        raise Stop(f"what is missing cannot be found out: {done.stderr[-500:]}")
    return done.stdout.split()


def complete_site(python, pip, archive, lines):
    """Install what the packages of this site lack; False when its torch or transformers do not serve."""
    found = lacking(python, archive)
    if {"torch", "transformers"} & set(found):
        return False
    tried = set()
    while found:
        new = [line for line in lines if name_of(line) in found and name_of(line) not in tried]
        if not new:
            raise Stop(f"the packages of this site do not fit together ({', '.join(found)}): set SITE_TORCH = False")
        install_pins([*pip, "--ignore-installed"], new)
        tried |= {name_of(line) for line in new}
        found = lacking(python, archive)
    return True


def new_environment(place, python, wheels, site):
    """An environment with hybrid alone. `site`: it sees the packages of this notebook's Python too."""
    do(sys.executable, "-m", "venv", "--clear", "--without-pip", place)
    if site:
        folders = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
        own = subprocess.run(
            [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            env=environment(), capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip
        Path(own, "site.pth").write_text("".join(folder + "\n" for folder in folders))
    pip = pip_for(python)
    do(*pip, "--no-deps", *(["--ignore-installed"] if site else []), *wheels)
    return pip


def fill(place, python, wheels):
    """Everything into a new environment: the site's torch and what it lacks, what was tested, or the newest."""
    found = pinned(wheels[0])
    named = {name_of(line) for line in found or []}
    lines = wanted(found or [])
    if SITE_TORCH and found:
        pip = new_environment(place, python, wheels, True)
        if complete_site(python, pip, wheels[0], lines):
            print("torch and transformers are those of this site: answers may differ from those of the tested versions")
            return
        print("this site's torch or transformers do not serve: all that was tested is installed")
    pip = new_environment(place, python, wheels, False)
    packages = PACKAGES.replace(",", " ").split()
    if found:
        install_pins(pip, lines)
        packages = [one for one in packages if name_of((one, 0, [])) not in named]
    else:
        print(f"Nothing was tested for this Python, {sys.version.split()[0]}: the newest packages are installed")
        do(*pip, f"{wheels[0]}[{EXTRAS}]" if EXTRAS else wheels[0])
    if packages:
        do(*pip, "--no-deps", *packages)


def say_what_is_here():
    """Tell once that the packages of this site could be used."""
    if "torch" not in EXTRAS.split(",") or SITE_TORCH:
        return
    try:
        has = [f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers")]
    except importlib.metadata.PackageNotFoundError:
        return
    print(f"This machine has {' and '.join(has)}: with SITE_TORCH = True they are used, which saves most of the time.")


def installed():
    """The Python of an environment with this wheel; it is made only when it is not there whole."""
    if sys.version_info < (3, 11):
        raise Stop(f"hybrid needs Python 3.11, this is {sys.version.split()[0]}: set PYTHON to one that has hybrid.")
    if LOCAL.resolve().is_relative_to(Path(FOLDER).resolve()):
        raise Stop(f"LOCAL is inside the shared folder: {LOCAL}. Choose a place on this machine's own disk.")
    asked = [[sha256 for _, _, sha256, _ in WHEELS], EXTRAS, PACKAGES, PINS, SITE_TORCH, sys.version]
    stamped = " ".join(map(str, asked))
    place = LOCAL / f"environment-{hashlib.sha256(stamped.encode()).hexdigest()[:16]}"
    python = place / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp = place / "whole.stamp"
    if stamp.is_file() and stamp.read_text() == stamped:
        print(f"hybrid is installed already, in {place}")
        return python
    look_at_gpu()
    wheels = [wheel(*one) for one in WHEELS]
    print(f"installing hybrid into {place}", flush=True)
    say_what_is_here()
    fill(place, python, wheels)
    stamp.write_text(stamped)
    return python


WITH = PYTHON or installed()
if run(WITH, "-m", "hybrid", "--version"):
    raise Stop(f"{WITH} does not run hybrid, see above")
'''
