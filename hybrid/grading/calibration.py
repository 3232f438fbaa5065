"""Measured errors of graders: results of `hybrid judge check`, stored on this machine by the identity of the grader.

The identity is name, version, settings and the digests of its models. With another prompt, model or rule it is another
judge, whose errors have not been measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hybrid.canonical import Json, decode, digest, encode
from hybrid.errors import HybridError
from hybrid.machine import home
from hybrid.machine.files import read_bounded
from hybrid.machine.replacing import replacing
from hybrid.machine.terminal import count_of
from hybrid.settings import freeze
from hybrid.statistics.agreement import ConfusionTable
from hybrid.statistics.correction import corrected

FORMAT = "hybrid/check"
BEGINS = b'{"format":"hybrid/check"'
LARGEST = 1_000_000
OF_THE_MACHINE = ("models", "model", "options")
"""Settings that are not part of the identity: digests name the models, and options belong to the machine."""
BRIEF = ("rows", "graded", "accuracy", "kappa", "errors", "worth")
"""What is told of each scale of a check on labels, beside a score."""
METHOD = "Rogan and Gladen, interval of Lang and Reiczigel, 95 %"


def identity(name: str, grader: Any, about: Mapping[str, Any]) -> Mapping[str, Json]:
    """The identity of a grader: its settings, and the models in its `about()`.

    A grader may name further settings that say what is judged and not who judges it: `of_the_task`.
    """
    left_out = (*OF_THE_MACHINE, *getattr(grader, "of_the_task", ()))
    settings = {key: value for key, value in freeze(grader).items() if key not in left_out}
    if calibrates(grader) and settings.get("threshold") is None:
        settings.pop("threshold", None)
    models = [model["digest"] for model in about.get("models", [])]
    return {"grader": name, "version": getattr(grader, "version", 1), "settings": settings, "models": models}


def calibrates(grader: Any) -> str:
    """The figure whose threshold a check calibrates; empty for a grader without one."""
    return str(getattr(grader, "calibrates", ""))


def place(identity: Mapping[str, Json]) -> Path:
    """The file of the last check of this identity."""
    return home.home() / "checks" / f"{digest(dict(identity))[:32]}.json"


def keep(identity: Mapping[str, Json], result: Mapping[str, Json]) -> Path:
    """Store the result of a check in place of the one before."""
    path = place(identity)
    with replacing(path, BEGINS) as stream:
        body = encode({"version": 1, "identity": dict(identity), **result})
        stream.write(BEGINS + b"," + body[1:] + b"\n")
    return path


def known(identity: Mapping[str, Json]) -> Mapping[str, Any] | None:
    """The last check of this identity; None when there is none, or it cannot be read."""
    path = place(identity)
    try:
        value = decode(read_bounded(path, LARGEST), what=str(path))
    except HybridError:
        return None
    fits = isinstance(value, dict) and value.get("format") == FORMAT and value.get("version") == 1
    return value if fits else None


def brief(check: Mapping[str, Any] | None) -> Mapping[str, Json] | None:
    """The part of a check that stands beside a score: rows, accuracy, kappa with interval, and what it is worth."""
    if check is None:
        return None
    told = {name: check[name] for name in ("data", "rows", "graded", "accuracy", "kappa", "worth") if name in check}
    scales = {name: {part: one[part] for part in BRIEF} for name, one in (check.get("scales") or {}).items()}
    return {**told, "scales": scales} if scales else told


def corrected_by(check: Mapping[str, Any], score: float, n: float) -> Mapping[str, Json] | None:
    """The score corrected for the measured errors, with its interval; None where it is not defined."""
    try:
        table = ConfusionTable(*(float(check["table"][name]) for name in ConfusionTable._fields))
        true = corrected(score, n, table)
    except (KeyError, TypeError, ValueError):
        return None
    return {"score": true.value, "interval": [true.low, true.high], "method": METHOD} if true else None


def sentences(judge: Any) -> list[str]:
    """The `judge` entry of grades.json as sentences for people; none when it cannot be read."""
    if not isinstance(judge, Mapping):
        return []
    try:
        return [_who(judge), *_scored(judge), *_agreement(judge), *_trust(judge), *_corrected(judge)]
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):
        return ["what judged cannot be read"]


def _who(judge: Mapping[str, Any]) -> str:
    models = ", ".join(f"{one['name']} ({str(one['digest'])[:12]})" for one in judge["models"])
    counts = ", ".join(f"{int(count):,} {what}" for what, count in judge.get("counts", {}).items())
    limit = judge.get("threshold")
    from_on = f"; right from {float(limit['value']):.2f} on ({limit['from']})" if limit else ""
    return f"judged by {models}" + (f": {counts}" if counts else "") + from_on


def _scored(judge: Mapping[str, Any]) -> list[str]:
    """What a score says of arms that were compared in pairs."""
    if "baseline" not in judge:
        return []
    return [f"a question's score is what the other arms win against {judge['baseline']}: 1 a win, 0.5 a tie, 0 a loss"]


def _agreement(judge: Mapping[str, Any]) -> list[str]:
    agreements = [("", judge["agreement"])] if judge.get("agreement") else []
    agreements += [(f" on {name}", agreed) for name, agreed in (judge.get("agreements") or {}).items()]
    lines = []
    for on, agreed in agreements:
        alpha = "not defined, all votes are alike" if agreed["alpha"] is None else f"{float(agreed['alpha']):.3f}"
        rows = count_of(int(agreed["rows"]), "answer")
        lines.append(f"agreement of the votes{on}: Krippendorff's alpha {alpha} over {rows}")
    swaps = judge.get("swaps")
    if swaps and swaps["pairs"]:
        lines.append(f"the order alone changed {int(swaps['changed']):,} of {int(swaps['pairs']):,} verdicts")
    return lines


def _trust(judge: Mapping[str, Any]) -> list[str]:
    scales = (judge.get("check") or {}).get("scales")
    if not scales:
        return [_trust_in_verdicts(judge)]
    return [_trust_on_scale(name, one, _file(judge["check"])) for name, one in scales.items()]


def _trust_on_scale(name: str, one: Mapping[str, Any], file: str) -> str:
    rows = f"{count_of(int(one['rows']), 'row')} of {file} ({name})"
    if "kappa" not in one or one["kappa"] is None:
        return f"checked on {rows}: {one['worth']}"
    kappa, low, high = (float(value) for value in one["kappa"])
    shares = [(name, share) for name, share in one["errors"].items() if share is not None]
    errors = "".join(f", {name} {100 * float(share):.0f} %" for name, share in shares)
    accuracy = float(one["accuracy"][0])
    measured = f"accuracy {accuracy:.3f}, kappa {kappa:.3f} ({low:.3f} to {high:.3f}){errors}"
    return f"checked on {rows}: {measured}; {one['worth']}"


def _trust_in_verdicts(judge: Mapping[str, Any]) -> str:
    check = judge.get("check")
    if not check:
        asked = [f"--model {one['name']} --backend {one['backend']}" for one in judge["models"] if "backend" in one]
        command = " ".join(["hybrid judge check", *asked]) if asked else "hybrid judge check, with the same options,"
        return f"how often this judge is wrong is not known: {command} tells"
    if "kappa" not in check:
        return f"checked on {count_of(int(check['rows']), 'row')} of {_file(check)}: {check['worth']}"
    kappa, accuracy = check["kappa"], float(check["accuracy"][0])
    return (
        f"checked on {count_of(int(check['rows']), 'row')} of {_file(check)}: accuracy {accuracy:.3f}, "
        f"kappa {float(kappa[0]):.3f} "
        f"({float(kappa[1]):.3f} to {float(kappa[2]):.3f}); {check['worth']}"
    )


def _file(check: Mapping[str, Any]) -> str:
    return str((check.get("data") or {}).get("file", "a file"))


def _corrected(judge: Mapping[str, Any]) -> list[str]:
    true = judge.get("corrected")
    if not judge.get("check") or "corrected" not in judge:  # no mean, or a check on labels
        return []
    if not true:
        return ["the score cannot be corrected for the judge's errors: it hardly tells right from wrong"]
    low, high = (float(end) for end in true["interval"])
    return [f"corrected for the judge's errors: {float(true['score']):.4f} ({low:.4f} to {high:.4f}; {true['method']})"]
