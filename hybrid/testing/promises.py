"""How a promise that is not kept is told, and the texts that everything must survive."""

from __future__ import annotations

STRANGE = (
    "",
    " ",
    "\x00\x1b[2J\u202e\ufeff",
    "\N{FAMILY}\N{ZERO WIDTH JOINER}\N{COMBINING ACUTE ACCENT} \N{ARABIC LETTER AIN}\N{CJK UNIFIED IDEOGRAPH-6C34}",
    "<script>alert(1)</script>",
    "[" * 50_000,
    "[[" + "1," * 50_000 + "1]]",
    "-9" * 10_000,
    "NaN Infinity 1e999 0x1F 1_000",
    "__import__('os').system('false')",
    "(a+)+$ " + "a" * 20_000,
)
"""Texts that a model may write and a grader must survive."""


class Broken(AssertionError):
    """A promise of the protocols is not kept."""


def expect(kept: bool, otherwise: str) -> None:
    if not kept:
        raise Broken(otherwise)
