"""How long an answer is."""

from dataclasses import dataclass, field

from hybrid.records import Grade, Output


@dataclass(frozen=True)
class LongerThan:
    """Right when the answer has more characters than `length`."""

    length: int = field(default=3, metadata={"help": "characters, spaces at the ends aside"})

    def grade(self, output: Output) -> Grade:
        """Judge one answer."""
        return Grade(float(len((output.text or "").strip()) > self.length))
