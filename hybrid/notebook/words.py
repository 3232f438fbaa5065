"""The texts of a notebook's first cell."""

from __future__ import annotations

SITES = {"colab": "Google Colab", "kaggle": "Kaggle", "plain": "this machine"}

TITLE = """# Run `{run}` on {site}

This notebook answers what is still open in one run of `hybrid` and puts the results into the shared folder, where the
laptop fetches them. It holds no data, no results and no secrets: all state is in the folder. **Run all cells, as often
as you like**: nothing is done twice, nothing is lost, and several machines may do it at once.
"""

STEPS = {
    "colab": """1. *Runtime > Change runtime type*: choose a GPU if the backend needs one.
2. Look at the parameters: is `FOLDER` where the shared folder is in your Drive?
3. *Runtime > Run all*. **A window asks for access to Google Drive, unless it is mounted already, and a person has to
   answer it**: nothing goes on before. Choose the account whose Drive has the shared folder.
4. Leave this tab open. The last cell says how it ended and what to do next. What this machine computed is safe when
   `hybrid status` on the laptop says that it was received: only then delete the runtime.
""",
    "kaggle": """Kaggle cannot mount Google Drive. So `rclone`, with a remote of your own, copies the run from the
shared folder to this machine, and then every minute the results back and the laptop's answers here.

1. Once, on the laptop: `rclone config` makes a remote for your Drive (with a client id of your own), and
   `rclone config file` says where it is written down. Store the text of that file here, under *Add-ons > Secrets*, as
   `RCLONE_CONF` (as it is, or in base64), and tick it there: that attaches it to this notebook. Only a person can do
   that; Kaggle's command line attaches no secrets. It stays on this machine.
2. In the settings of the notebook: Internet on, and GPU T4 x2 if the backend needs a GPU (torch has no code for a
   P100).
3. Look at the parameters: is `REMOTE` where the shared folder is?
4. *Run all*. The last cell says how it ended and what to do next. What this machine computed is safe when
   `hybrid status` on the laptop says that it was received: only then end the session.
""",
    "plain": """1. Make the shared folder visible on this machine: a mount, Syncthing, `rclone`, or a plain directory.
2. Look at the parameters: is `FOLDER` that folder?
3. Run all cells. The last one says how it ended and what to do next. What this machine computed is safe when
   `hybrid status` on the laptop says that it was received: only then give this machine back.
""",
}

STEPS["store"] = """1. Put the keys of the bucket into the environment of this machine, before the notebook's kernel is
   started; never into a cell. `hybrid` takes them from there alone.
2. Look at the parameters: is `FOLDER` the bucket and prefix?
3. Run all cells. The last one says how it ended and what to do next. What this machine computed is safe when
   `hybrid status` on the laptop says that it was received: only then give this machine back.
"""

GPU_ADVICE = {
    "colab": "Runtime > Change runtime type: choose a GPU, T4 or newer; then run all cells again.",
    "kaggle": "Settings > Accelerator: choose GPU T4 x2; then run all cells again.",
    "plain": "Take a machine with a T4 or newer GPU and a current driver.",
}

PACKED = """
The model {model} is restored from the shared folder to this machine's own disk.
"""

OWN_MODEL = """
The model {model} is a file or folder of the machine that submitted the run. Put it on this machine too and say where,
in the parameters: `OPTIONS = ['--model', 'NAME=/where/it/is/here']`, with its name as it stands above. Or pack it
on the laptop with `hybrid models pack`, and make this notebook again.
"""

OPENAI = """
The model {model} is asked of a server with OpenAI's interface. Say where it is, in the parameters:
`OPTIONS = ['--backend-option', 'url=https://HOST/v1']`. A key goes into the environment variable
`HYBRID_OPENAI_KEY` of this machine, never into this notebook.
"""

OLLAMA = """
An Ollama server is started on this machine's own disk and ends with the worker. Its model {model} is restored from the
shared folder; on the laptop, once: `hybrid models pack NAME`. Say in `OLLAMA` where the program is, if this machine
does not have it.
"""

OLLAMA_ON_KAGGLE = """
Kaggle has no Ollama and keeps no disk: each session copies the program and the model again. `OLLAMA` may be a file of
a data set (`/kaggle/input/...`) or of your Drive, as `rclone` names it (`drive:ollama-linux-amd64.tar.zst`).
"""
