"""Find the answer in a completion: what stands between <answer> and </answer>. Linear in the text's length."""

from __future__ import annotations

START, END = "<answer>", "</answer>"


def extract(text: str) -> str | None:
    """What the last complete pair of answer tags holds, without white space around it; None without a pair.

    A pair that was opened twice begins at the later tag: "in <answer> tags: <answer>5</answer>" answers "5".
    """
    closed = text.rfind(END)
    if closed < 0:
        return None
    opened = text.rfind(START, 0, closed)
    if opened < 0:
        return None
    start = opened + len(START)
    return text[start : text.find(END, start)].strip()


def first_opened(text: str) -> str | None:
    """As `extract`, by the rule of reasoning-gym: a pair begins at the first tag that is not in the pair before it."""
    found, place = None, 0
    while (opened := text.find(START, place)) >= 0 and (closed := text.find(END, opened + len(START))) >= 0:
        found, place = text[opened + len(START) : closed], closed + len(END)
    return None if found is None else found.strip()


def tagged(text: str) -> bool:
    """Whether the text has a pair of answer tags."""
    return extract(text) is not None
