"""The shell around the program of a script, for ssh and Slurm, and SkyPilot's task file; `$$` is a dollar there."""

from __future__ import annotations

PYTHON = """
PYTHON=
for one in "${HYBRID_PYTHON:-python3.12}" python3.12 python3.13 python3.11 python3; do
  if command -v "$one" >/dev/null; then PYTHON="$one"; break; fi
done
[ "$PYTHON" ] || { echo "STOPPED: there is no Python here: install Python 3.12, or set HYBRID_PYTHON" >&2; exit 7; }
""".strip("\n")
"""Sets PYTHON to the interpreter that runs the program, and makes the environment for the worker."""

SSH = """\
#!/bin/bash
# A worker of hybrid over ssh, for the run $run. It goes on when the connection is lost.
#
#   ssh HOST bash -s < THIS_FILE                          start it; when it runs already, say so
#   ssh HOST bash -s start --until 5h < THIS_FILE         ... with options of `hybrid worker`
#   ssh HOST bash -s status < THIS_FILE                   whether it runs, and its last lines
#   ssh HOST bash -s stop < THIS_FILE                     stop it in order: results are kept
#
# It may be started as often as you like, and on several machines. It holds no secrets: what the worker needs, such as
# HF_TOKEN, is in the environment of that machine. The parameters stand at the top of the program below.
set -eu
PLACE="$${HYBRID_PLACE:-$$HOME/.cache/hybrid-notebook}/$run"
LOG="$$PLACE/log"
mkdir -p "$$PLACE"
COMMAND="$${1:-start}"
[ $$# -eq 0 ] || shift
command -v flock >/dev/null || { echo "STOPPED: there is no flock here: install util-linux" >&2; exit 7; }
exec 9>>"$$PLACE/lock"  # held by the program as long as it runs

last_lines() { [ ! -f "$$LOG" ] || tail -n 15 "$$LOG"; }

case "$$COMMAND" in
  start) ;;
  status)
    if flock -n 9; then echo "it does not run"; else echo "it runs: process $$(cat "$$PLACE/pid")"; fi
    last_lines
    exit 0 ;;
  stop)
    if ! flock -n 9; then
      kill -TERM "$$(cat "$$PLACE/pid")"
      flock -w 600 9 || { echo "it was asked to stop and still runs; its log is $$LOG" >&2; exit 5; }
    fi
    echo "it does not run"
    last_lines
    exit 0 ;;
  *) echo "STOPPED: there is no command '$$COMMAND': start, status, stop" >&2; exit 2 ;;
esac

if ! flock -n 9; then
  echo "it runs already: process $$(cat "$$PLACE/pid"); its log is $$LOG"
  last_lines
  exit 0
fi
$python
cat > "$$PLACE/program.py" <<'HYBRID_PROGRAM'
${program}HYBRID_PROGRAM
setsid nohup "$$PYTHON" -u "$$PLACE/program.py" "$$@" >> "$$LOG" 2>&1 < /dev/null &
echo $$! > "$$PLACE/pid"
echo "started as process $$!; its log is $$LOG"
"""

SLURM = """\
#!/bin/bash
# A worker of hybrid on Slurm, for the run $run. Options of `hybrid worker` may follow its name:
#
#   sbatch --time=04:00:00 THIS_FILE                one worker
#   sbatch --time=04:00:00 --array=1-8 THIS_FILE    eight workers, which share the run
#
# Before the time is up the worker closes its shard and the job is queued again; so it is when it is preempted or its
# node fails. `scancel --signal=TERM --full JOB` stops it in order. It holds no secrets: what the worker needs, such as
# HF_TOKEN, is in the environment of sbatch. The parameters stand at the top of the program below.
#SBATCH --job-name=$run
#SBATCH --output=$run-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@300
${gpu}
LIMIT= PROGRAM= STATUS=0
trap 'LIMIT=1; [ ! "$$PROGRAM" ] || kill -TERM "$$PROGRAM"' USR1
trap '[ ! "$$PROGRAM" ] || kill -TERM "$$PROGRAM"' TERM
$python
"$$PYTHON" -u - "$$@" <<'HYBRID_PROGRAM' &
${program}HYBRID_PROGRAM
PROGRAM=$$!
[ ! "$$LIMIT" ] || kill -TERM "$$PROGRAM"
while :; do  # a signal ends the wait, not the program
  wait "$$PROGRAM"
  STATUS=$$?
  kill -0 "$$PROGRAM" 2>/dev/null || break
done
if [ "$$LIMIT" ] && { [ "$$STATUS" = 4 ] || [ "$$STATUS" = 5 ]; }; then
  echo "the time is nearly up: the job is queued again"
  scontrol requeue "$$SLURM_JOB_ID"
fi
exit "$$STATUS"
"""

SKYPILOT = """\
# A worker of hybrid on SkyPilot, for the run $run: on a spot machine, and on
# another when that one is lost.
#
#   sky jobs launch THIS_FILE
#
# It may be launched several times: the workers share the run. It holds no secrets. The parameters stand at the top of
# the program below.
name: $run
resources:
$gpu  use_spot: true
  job_recovery:
    strategy: EAGER_NEXT_REGION
    max_restarts_on_errors: 3
    recover_on_exit_codes: [5]  # something was away for a while: the folder, the network
${mount}${secrets}run: |
$program"""
