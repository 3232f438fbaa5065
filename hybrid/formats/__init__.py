"""Files of other tools, read as outputs: inspect_ai, lm-eval, OpenAI batches, HELM, ARC submissions, tables."""

from hybrid.formats.imported import ImportedOutputs, told
from hybrid.formats.opening import open_any
from hybrid.formats.reading import USUAL, Reading
from hybrid.formats.recognition import FORMATS

__all__ = ["FORMATS", "USUAL", "ImportedOutputs", "Reading", "open_any", "told"]
