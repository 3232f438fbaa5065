"""The code of a notebook, by cell and kind: plain Python without magics, which runs on 3.8 until it checks the version.

Every cell can be run again at any time. An error ends its cell with a message that says what to do.
"""

from __future__ import annotations

from hybrid.notebook import install_cell, store_cell

GROUND = '''
import hashlib
import os
import subprocess
import sys
import threading
from pathlib import Path

LOCAL = Path(LOCAL).expanduser().absolute()


class Stop(Exception):
    """Ends a cell with words instead of a traceback."""

    def _render_traceback_(self):
        return [f"STOPPED: {self}"]


def environment(**more):
    """What programs that are started here see: nothing of the notebook's own packages, and no secret of others."""
    hidden = {"PYTHONPATH", "PYTHONHOME", "MPLBACKEND", "HF_TOKEN"}
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    return {**kept, "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1", **more}


def show(process):
    for line in process.stdout:
        print(line, end="", flush=True)


def run(*command, **more):
    """Run a command, show at once what it says, return its exit code. Stopping the cell stops it in order."""
    process = subprocess.Popen(
        list(map(str, command)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        env=environment(**more),
        start_new_session=True,  # else a stop would reach it twice: through the kernel's group, and from here
    )
    showing = threading.Thread(target=show, args=(process,), daemon=True)
    try:
        showing.start()
        process.wait()
    except KeyboardInterrupt:
        print("stopping in order; stop the cell once more to stop at once", flush=True)
        process.terminate()
        try:
            process.wait()
        except KeyboardInterrupt:
            process.kill()
            process.wait()
    showing.join(3)  # and no longer: a helper of it that hangs on a dead mount must not hold the cell
    return process.returncode


def read_of(path, limit):
    """The beginning of a file of the shared folder, at most `limit` bytes. Raises OSError."""
    with Path(FOLDER, path).open("rb") as file:
        return file.read(limit)


def look_at_folder(advice):
    """Stop unless FOLDER is a shared folder with this run in it."""
    try:
        found = read_of("hybrid.json", len(MARK) + 1)
    except OSError as error:
        raise Stop(f"{FOLDER} is not the shared folder, or not yet: {error.strerror}. {advice}") from None
    if found != MARK:
        raise Stop(f"{FOLDER} has another mark than a folder that this hybrid reads, or a part of it. {advice}")
    try:
        read_of(f"runs/{RUN}/run.json", 1 << 20)
    except OSError:
        raise Stop(f"{FOLDER} is a shared folder, but {RUN} is not in it, or not yet. {advice}") from None
    print(f"{FOLDER} is the shared folder, and {RUN} is in it.")
'''

ALL_HERE = '''

def bring(files):
    """A folder that has these files of the shared one: itself, since nothing has to be copied."""
    return FOLDER
'''

FOLDER = {
    "colab": """
DRIVE = "/content/drive"
try:
    from google.colab import drive
except ImportError:
    raise Stop("this is not Colab. For any other machine: hybrid notebook plain") from None

if not os.path.ismount(DRIVE):
    print("Colab may open a window now and ask for access to Google Drive. Answer it: nothing goes on before that.")
    print("Choose the account whose Drive has the shared folder.", flush=True)
    try:
        drive.mount(DRIVE)  # and never by force, which would cut off what is still being uploaded
    except Exception as error:
        raise Stop(
            f"Google Drive is not mounted: {error}. Was the window closed, or open for too long? Run all cells again "
            "and answer it. If that does not help: Runtime > Restart session, then run all."
        ) from None
if not os.path.ismount(DRIVE):
    raise Stop(f"{DRIVE} is a plain folder: the mount of Google Drive died. Runtime > Restart session, then run all.")
look_at_folder(
    "Is the path right, and does this account have the folder? What the laptop has just written may need minutes to "
    "get here: then run all cells again."
)
"""
    + ALL_HERE,
    "kaggle": '''
import base64
import shutil
import time

REMOTE = REMOTE.rstrip("/")
LOCAL.mkdir(parents=True, exist_ok=True)


def configured():
    """The option that names rclone's configuration: from the secret RCLONE_CONF, else what this machine has."""
    try:
        from kaggle_secrets import UserSecretsClient
    except ImportError:
        return []
    try:
        text = UserSecretsClient().get_secret("RCLONE_CONF")
        text = text if "[" in text else base64.b64decode(text).decode()
    except Exception as error:
        raise Stop(
            f"the secret RCLONE_CONF cannot be read ({type(error).__name__}). Is it attached? Only you can do that: "
            "Edit, Add-ons > Secrets, add or tick RCLONE_CONF, then run all cells (Save Version > Save & Run All)."
        ) from None
    path = LOCAL / "rclone.conf"  # not below /kaggle/working, which is kept as the notebook's output
    path.touch(mode=0o600)
    path.write_text(text)
    return ["--config", str(path)]


def fetch():
    """Bring what the shared folder has of this run; True when rclone says that it could."""
    wheels = [path for path, _, _, _ in WHEELS]
    wanted = [f"--include=/{path}" for path in ("hybrid.json", *wheels, f"runs/{RUN}/**")]
    return run(*RCLONE, *wanted, REMOTE, FOLDER) == 0


def bring(files):
    """A copy of packed models. It is not below FOLDER: what is there becomes the output of the notebook."""
    wanted = [f"--include={path}" for path in ("/hybrid.json", *files)]
    if run(*RCLONE, *wanted, REMOTE, LOCAL / "packed"):
        raise Stop(f"rclone cannot copy the model from {REMOTE}, see above. Run all cells again.")
    return LOCAL / "packed"


def send(*filters):
    """Take what this machine has of this run to the shared folder; True when rclone says that it could."""
    return run(*RCLONE, *filters, f"{FOLDER}/runs/{RUN}", f"{REMOTE}/runs/{RUN}") == 0


if not shutil.which("rclone"):
    print("installing rclone")
    run("apt-get", "update", "-qq")
    run("apt-get", "install", "-y", "-qq", "rclone")
if not shutil.which("rclone"):
    raise Stop("rclone is not here and cannot be installed. Is the Internet on, in the settings of the notebook?")
RCLONE = ["rclone", "copy", "--checksum", *configured()]
if not fetch():
    raise Stop(f"rclone cannot copy from {REMOTE}, see above. Is REMOTE right, and the secret RCLONE_CONF?")
look_at_folder("Is REMOTE right? What the laptop has just written may need minutes: then run all cells again.")
''',
    "store": store_cell.FOLDER + ALL_HERE,
    "plain": """
look_at_folder("Is the path right, and is the mount there? A sync may need minutes: then run all cells again.")
"""
    + ALL_HERE,
}

INSTALL = install_cell.INSTALL

SECRET = {
    "colab": """
def secret(name):
    from google.colab import userdata

    return userdata.get(name)
""",
    "kaggle": """
def secret(name):
    from kaggle_secrets import UserSecretsClient

    return UserSecretsClient().get_secret(name)
""",
    "plain": """
def secret(name):
    return os.environ[name]
""",
}

OLLAMA = """
if run(WITH, "-m", "hybrid", "models", "restore", MODEL, "--folder", bring(OLLAMA_FILES)):
    raise Stop(f"the model {MODEL} is not here, see above: `hybrid models pack {MODEL}` on the laptop brings it")
WITHIN = [WITH, "-m", "hybrid", "ollama", "up", *(["--from", OLLAMA] if OLLAMA else []), "--"]
"""

OLLAMA_OF_REMOTE = """
if ":" in str(OLLAMA):  # as rclone names it
    if run(*RCLONE, OLLAMA, LOCAL / "ollama"):
        raise Stop(f"rclone cannot copy {OLLAMA}, see above. Is OLLAMA right?")
    OLLAMA = LOCAL / "ollama" / OLLAMA.rpartition(":")[2].rpartition("/")[2]
elif not OLLAMA and not shutil.which("ollama"):
    raise Stop("this machine has no Ollama: say in OLLAMA where the archive of its release is")
"""

MODELS = """
RESTORED = []
for NAME, FROM, INNER, FILES in PACKED:
    if any(str(option).startswith((f"{NAME}=", f"--model={NAME}=")) for option in OPTIONS):
        continue  # it is here already
    PLACE = LOCAL / "models" / FROM
    if run(WITH, "-m", "hybrid", "models", "restore", FROM, "--folder", bring(FILES), "--to", PLACE):
        raise Stop(f"the model {FROM} is not here, see above. It may still be on its way: run all cells again.")
    RESTORED += ["--model", f"{NAME}={PLACE / INNER}"]
"""

COMMAND = '''

def token():
    """HF_TOKEN for the worker alone: as this machine has it, else from the secrets of the site."""
    if not ASK_HF_TOKEN:
        return {}
    try:
        return {"HF_TOKEN": os.environ.get("HF_TOKEN") or secret("HF_TOKEN")}
    except Exception as error:
        print(f"going on without HF_TOKEN ({type(error).__name__}): a model that asks for one will not load")
        return {}


COMMAND = [*WITHIN, WITH, "-m", "hybrid", "worker", FOLDER, "--run", RUN, "--side", "gpu", *RESTORED, *OPTIONS]
COMMAND += ["--until", UNTIL] if UNTIL else []
if GPUS and len([line for line in gpu_lines() if line]) > 1:
    COMMAND += ["--gpus", GPUS]
COMMAND += ["--max-idle", MAX_IDLE] if MAX_IDLE else []
'''

WORK = """CODE = run(*COMMAND, **token())
"""

SESSION = '''

def time_left():
    """What is left of the session, with time to send the rest, as --until takes it."""
    began = LOCAL / "session-began"  # the disk goes with the session
    LOCAL.mkdir(parents=True, exist_ok=True)
    if not began.exists():
        began.write_text(str(time.time()))
    minutes = int(SESSION_HOURS * 60 - 20 - (time.time() - float(began.read_text())) / 60)
    if minutes < 1:
        raise Stop(f"this session is over in minutes: {SESSION_HOURS} h are what Kaggle gives. Start a new one.")
    print(f"the worker leaves in {minutes // 60} h {minutes % 60} min, before the session ends")
    return f"{minutes}m"


UNTIL = UNTIL or (time_left() if SESSION_HOURS else "")
'''

WORK_AND_CARRY = '''

def carry(ended):
    """Every minute there and back until the worker has ended. What is being written goes with the next round."""
    while not ended.wait(60):
        send("--min-age=15s")
        fetch()


ENDED = threading.Event()
CARRIER = threading.Thread(target=carry, args=(ENDED,), daemon=True)
CARRIER.start()
try:
    CODE = run(*COMMAND, **token())
finally:
    ENDED.set()
    CARRIER.join()
    SENT = send() or send() or send()
'''

WORKER = {
    "colab": SECRET["colab"] + COMMAND + WORK,
    "kaggle": SECRET["kaggle"] + SESSION + COMMAND + WORK_AND_CARRY,
    "plain": SECRET["plain"] + COMMAND + WORK,
}

MEANING = """
AGAIN = "Run all cells again: it goes on where it stopped."
KEEP = "Keep this machine until `hybrid status` on the laptop says that everything was received."
MEANING = {
    0: f"Done: nothing of this run is left to do on this side. {KEEP} Then, there: hybrid fetch {RUN}",
    1: f"A fault in hybrid: please report it with the lines above. {KEEP} {AGAIN}",
    2: f"The worker was called wrongly: see above, and look at the parameters. {AGAIN}",
    3: f"Finished, but items failed: on the laptop, `hybrid status {RUN}` says why and `hybrid retry {RUN}` orders "
    f"them again; then run all cells again. {KEEP}",
    4: "Not finished: the time was up, it was stopped, the run was cancelled, or the laptop has to do its part first, "
    f"see above. {KEEP} {AGAIN}",
    5: f"Something is away for now, see above: the folder, the network, room on a disk, a quota. {KEEP} Once it is "
    f"back: {AGAIN}",
    6: "A file of the run is damaged or foreign, see above; nothing was changed. It may still be on its way: run all "
    "cells again in some minutes. If it stays so, `hybrid doctor` on the laptop explains every such file.",
    7: "This machine cannot do it as asked, see above: memory, GPU, model, library or permission. Change the "
    "parameters or take another machine, then run all cells again.",
}
LOST = f"The worker was ended from outside (code {CODE}), often because memory was full. {KEEP} {AGAIN}"
"""

SAY = """
print(MEANING.get(CODE, LOST))
if CODE not in (0, 3, 4):
    raise Stop(f"the worker ended with exit code {CODE}, which means: {MEANING.get(CODE, LOST)}")
"""

FLUSHED = """
if FLUSH and not os.path.ismount(DRIVE):
    print("Google Drive is not mounted any more: whether everything was uploaded is not known.")
elif FLUSH:
    print("waiting until Drive has uploaded everything; then it is unmounted until all cells are run again", flush=True)
    try:
        drive.flush_and_unmount()
    except Exception as error:
        raise Stop(f"not everything was uploaded: {error}. Keep this machine and run this cell again.") from None
    print("Everything that is in the folder was uploaded.")
"""

ALL_SENT = """
if not SENT:
    print(f"Not everything got to {REMOTE}, see above. Keep this machine and run all cells again.")
"""

END = {"colab": MEANING + FLUSHED + SAY, "kaggle": MEANING + ALL_SENT + SAY, "plain": MEANING + SAY}
