"""The engine of `hybrid`: library and command line. It knows no experiment.

What authors of pipelines, graders and backends need is here by flat names: `from hybrid import Item, Output, Grade`. A
name is imported when it is first asked for, so that `import hybrid` stays cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hybrid.machine.late_imports import import_object

if TYPE_CHECKING:
    from hybrid.bounds import NOT_NEGATIVE as NOT_NEGATIVE
    from hybrid.bounds import SEED as SEED
    from hybrid.bounds import SHARE as SHARE
    from hybrid.bounds import Bounds as Bounds
    from hybrid.bounds import refuse_outside as refuse_outside
    from hybrid.canonical import Json as Json
    from hybrid.errors import BadData as BadData
    from hybrid.errors import CannotRun as CannotRun
    from hybrid.errors import HybridError as HybridError
    from hybrid.errors import NotFinished as NotFinished
    from hybrid.errors import Temporary as Temporary
    from hybrid.errors import UsageError as UsageError
    from hybrid.errors import Waits as Waits
    from hybrid.export.graded_run import GradedOutput as GradedOutput
    from hybrid.export.graded_run import GradedRun as GradedRun
    from hybrid.export.graded_run import read_run as read_run
    from hybrid.loops import Exchange as Exchange
    from hybrid.loops import Lab as Lab
    from hybrid.loops import NotYet as NotYet
    from hybrid.loops import Publications as Publications
    from hybrid.loops import RoundFailed as RoundFailed
    from hybrid.loops import Segment as Segment
    from hybrid.loops import Series as Series
    from hybrid.metrics import Measured as Measured
    from hybrid.metrics import RoundMetrics as RoundMetrics
    from hybrid.protocols import Backend as Backend
    from hybrid.protocols import Embedder as Embedder
    from hybrid.protocols import Inputs as Inputs
    from hybrid.protocols import MakesPages as MakesPages
    from hybrid.protocols import MeasuringGrader as MeasuringGrader
    from hybrid.protocols import Model as Model
    from hybrid.protocols import ModelGrader as ModelGrader
    from hybrid.protocols import OutputGrader as OutputGrader
    from hybrid.protocols import Pipeline as Pipeline
    from hybrid.protocols import QuestionGrader as QuestionGrader
    from hybrid.protocols import ReadyGrader as ReadyGrader
    from hybrid.protocols import Role as Role
    from hybrid.protocols import Stage as Stage
    from hybrid.records import Completion as Completion
    from hybrid.records import Example as Example
    from hybrid.records import Failure as Failure
    from hybrid.records import Grade as Grade
    from hybrid.records import Item as Item
    from hybrid.records import Message as Message
    from hybrid.records import Output as Output
    from hybrid.records import Question as Question
    from hybrid.records import Request as Request
    from hybrid.records import Sampling as Sampling
    from hybrid.report.section import Section as Section
    from hybrid.report.section import TaskView as TaskView
    from hybrid.report.sources import ReportRun as ReportRun
    from hybrid.sampling import check_sampling as check_sampling
    from hybrid.sampling import item_seed as item_seed
    from hybrid.tuning import Tuning as Tuning
    from hybrid.work import Ask as Ask
    from hybrid.work import Derive as Derive
    from hybrid.work import Derived as Derived
    from hybrid.work import FineTuning as FineTuning
    from hybrid.work import Finished as Finished
    from hybrid.work import Frontier as Frontier
    from hybrid.work import Rounds as Rounds
    from hybrid.work import Search as Search
    from hybrid.work import Together as Together
    from hybrid.work import Tune as Tune
    from hybrid.work import Walk as Walk
    from hybrid.work import answer_of as answer_of
    from hybrid.work import found_in as found_in
    from hybrid.work import replayed as replayed

NAMES = {
    "bounds": ("NOT_NEGATIVE", "SEED", "SHARE", "Bounds", "refuse_outside"),
    "canonical": ("Json",),
    "errors": ("BadData", "CannotRun", "HybridError", "NotFinished", "Temporary", "UsageError", "Waits"),
    "export.graded_run": ("GradedOutput", "GradedRun", "read_run"),
    "loops": ("Exchange", "Lab", "NotYet", "Publications", "RoundFailed", "Segment", "Series"),
    "metrics": ("Measured", "RoundMetrics"),
    "protocols": (
        "Backend", "Embedder", "Inputs", "MakesPages", "MeasuringGrader", "Model", "ModelGrader", "OutputGrader",
        "Pipeline", "QuestionGrader", "ReadyGrader", "Role", "Stage",
    ),
    "records": (
        "Completion", "Example", "Failure", "Grade", "Item", "Message", "Output", "Question", "Request", "Sampling",
    ),
    "report.section": ("Section", "TaskView"),
    "report.sources": ("ReportRun",),
    "sampling": ("check_sampling", "item_seed"),
    "tuning": ("Tuning",),
    "work": (
        "Ask", "Derive", "Derived", "FineTuning", "Finished", "Frontier", "Rounds", "Search", "Together", "Tune",
        "Walk", "answer_of", "found_in", "replayed",
    ),
}  # fmt: skip
"""Module -> the names that are offered of it."""


def __getattr__(name: str) -> Any:
    """A name of `NAMES`. Raises AttributeError for any other."""
    for module, names in NAMES.items():
        if name in names:
            return import_object(f"hybrid.{module}:{name}", needed_for=f"hybrid.{name}")
    raise AttributeError(f"module 'hybrid' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *(name for names in NAMES.values() for name in names)})
