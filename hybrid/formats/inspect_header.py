"""What the header of an inspect_ai log says: the task, the model, the scorers, and how many samples there should be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hybrid.canonical import Json
from hybrid.errors import BadData
from hybrid.formats.inspect_scores import headline, reducers, score_names
from hybrid.formats.reading import plain, whole
from hybrid.machine.terminal import count_of, is_or_are

NEWEST = 2
"""The newest version of the log format that is read."""

ABOUT = ("task", "task_version", "created", "model_base_url", "model_generate_config")
UNKNOWN = "model digest, chat template, engine, device, time of each answer"
"""What no inspect log says."""


@dataclass(frozen=True, slots=True)
class InspectHeader:
    """The header of a log, checked."""

    name: str
    values: Mapping[str, Any]

    @classmethod
    def of(cls, values: Mapping[str, Any], name: str) -> InspectHeader:
        """Raises BadData for a log of a newer version, and for what is no log."""
        version = values.get("version", 1)
        if type(version) is not int or not 1 <= version <= NEWEST:
            raise BadData(
                f"{name}: an inspect log of version {version!r:.40}, this hybrid reads 1 to {NEWEST}",
                hint="update hybrid, or convert the log with the inspect_ai that wrote it",
            )
        if not isinstance(values.get("eval"), dict):
            raise BadData(
                f"{name}: an inspect log without its header ('eval')", hint="is the file whole? copy it again"
            )
        return cls(name, values)

    @property
    def eval(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.values["eval"]
        return found

    @property
    def model(self) -> str:
        """The model, as inspect names it."""
        return str(self.eval.get("model", ""))

    @property
    def scorer(self) -> str:
        """The only scorer of a version 1 log."""
        return next(iter(self.scorers), "")

    @property
    def scorers(self) -> list[str]:
        """The names of the scores."""
        return score_names(self.values.get("results"), self.eval.get("scorers"))

    def run(self) -> dict[str, Json]:
        """The member `run` of the outputs."""
        packages, dataset = self.eval.get("packages"), self.eval.get("dataset")
        about: dict[str, Any] = {
            "grader": "recorded",
            "format": f"inspect log, version {self.values.get('version', 1)}",
            "inspect_ai": packages.get("inspect_ai") if isinstance(packages, dict) else None,
            "status": self.values.get("status"),
            **{name: self.eval.get(name) for name in ABOUT},
            "dataset": dataset.get("name") if isinstance(dataset, dict) else None,
            "scorers": self.scorers,
            "headline": headline(self.values.get("results")),
            "reducers": reducers(self.eval.get("config")),
            "unknown": UNKNOWN,
        }
        kept = plain({name: value for name, value in about.items() if value not in (None, "", {})})
        return {"model": self.model, "about": kept}

    def models(self) -> list[Json]:
        """The member `models`: the digest is not known."""
        return [{"name": self.model, "digest": "", "about": {"named by": "an inspect log, which holds no digest"}}]

    def lacks(self, samples: int) -> str:
        """What a log of `samples` samples lacks by its own header; "" when nothing."""
        results, status = self.values.get("results"), str(self.values.get("status", ""))
        total = whole(results.get("total_samples")) if isinstance(results, dict) else 0
        if total and samples != total:
            held = f"{samples:,} {is_or_are(samples)} in the file"
            return f"its header says {count_of(total, 'sample')}, and {held}"
        if status not in ("success", ""):
            return f"its status is {status[:40]!r}, so samples may be missing"
        return "" if samples else "it holds no samples"
