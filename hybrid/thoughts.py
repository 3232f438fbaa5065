"""The one rule for what a model thinks before it answers: where its thought ends, and how a template turns it off.

A thought stands at the beginning of a text, between two marks. Where the prompt has opened it, the text begins inside;
so does a text in which a closing mark comes without an opening one. A text that only mentions the marks is an answer.
Looking takes time in proportion to the text, whatever stands in it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

MARKS: Mapping[str, str] = {
    "<think>": "</think>",  # DeepSeek R1, Qwen3, GLM, SmolLM3, MiniMax M2, Kimi K2, OLMo 3, Hunyuan and most others
    "<thinking>": "</thinking>",
    "<thought>": "</thought>",  # EXAONE Deep
    "<reasoning>": "</reasoning>",  # Reka Flash 3
    "<seed:think>": "</seed:think>",  # Seed-OSS
    "<mm:think>": "</mm:think>",  # MiniMax M3
    "<ifm|think>": "</ifm|think>",  # K2
    "[THINK]": "[/THINK]",  # Magistral, Ministral
    "<|START_THINKING|>": "<|END_THINKING|>",  # Command A
    "<|begin_of_thought|>": "<|end_of_thought|>",  # OpenThinker, Sky-T1
    "<|inner_prefix|>": "<|inner_suffix|>",  # Apertus
    "<|plamo:begin_think:plamo|>": "<|plamo:end_think:plamo|>",
    "<|open|>think<|sep|>": "<|close|>think<|sep|>",  # Kimi K3
    "<|channel>thought": "<channel|>",  # Gemma 4
    "<unused94>thought": "<unused95>",  # MedGemma
    "\u25c1think\u25b7": "\u25c1/think\u25b7",  # Kimi-VL
    "<|channel|>analysis<|message|>": "<|channel|>final<|message|>",  # gpt-oss; see ENDS
}
"""What opens a thought and what closes it, as templates and models write them."""

ENDS: Mapping[str, str] = {
    "<|channel|>final<|message|>": r"(?:<\|end\|>)?(?:<\|start\|>assistant)?"
    r"<\|channel\|>final(?: ?<\|constrain\|>\w{1,20})?<\|message\|>|<\|end\|>(?!<\|start\|>)",
}
"""Closing marks with more than one form, as regular expressions."""

PROSE = (
    re.compile(r"\s*Here(?: is|'s) my thought process:"),  # Granite 3.2
    re.compile(r"Here(?: is|'s) my response:"),
    re.compile(r"\s*analysis"),  # gpt-oss, written by an engine that left its special tokens out
    re.compile(r"assistantfinal"),
)
"""Pairs that are words as well: they are marks only when both are there."""

CHANNEL_TOKENS = frozenset({"<|channel|>", "<|start|>", "<|message|>", "<|constrain|>", "<|end|>"})
TOKENS = frozenset(re.findall(r"<[^<>]+>|\[/?THINK\]", " ".join([*MARKS, *MARKS.values()]))) - CHANNEL_TOKENS
"""Marks, and parts of marks, that a tokenizer may hold as one special token and then leave out of its texts.

Those of channels are marks only where there is a <|channel|>: <|end|> alone ends a turn of other models.
"""

SWITCHES: Mapping[str, Any] = {
    "enable_thinking": False,  # Qwen3, SmolLM3, GLM, Hunyuan, EXAONE 4, Nemotron, Gemma 4
    "thinking": False,  # Granite, DeepSeek V3.1, Kimi K2
    "reasoning": False,  # Command A
    "thinking_budget": 0,  # Seed-OSS
}
"""Variables by which a chat template turns thinking off, and the value that does."""

_OPENS = "|".join(map(re.escape, sorted(MARKS, key=len, reverse=True)))
_BEGIN = re.compile(rf"\s*({_OPENS})")
_LEFT_OPEN = re.compile(rf"({_OPENS})\s*\Z")
_EMPTY = re.compile("|".join(rf"{re.escape(one)}\s*{re.escape(end)}\s*\Z" for one, end in MARKS.items()))
_TAIL = 256  # characters at the end of a prompt that are looked at
_SPACE = re.compile(r"\s*")
_TAG = re.compile(r"\{[{%].*?[%}]\}", re.DOTALL)


class Said(NamedTuple):
    """`thought`, its marks included, and the answer behind it make up the text; `text` is None when no answer came."""

    thought: str
    text: str | None


def split(text: str, opened: str = "") -> Said:
    """The thought in `text` and the answer. `opened` is the mark by which the prompt has opened a thought already."""
    if not opened and not is_marked(text):
        return Said("", text)
    end = _end(text, 0, opened) if opened else 0
    if end == 0:
        end = _end_of_unopened(text)
    while end >= 0 and (begin := _BEGIN.match(text, end)):
        end = _end(text, begin.end(), begin[1])
    if end == 0:
        return Said("", text)
    if end > 0:
        space = _SPACE.match(text, end)
        end = space.end() if space else end
    return Said(text, None) if end in (-1, len(text)) else Said(text[:end], text[end:])


def is_marked(text: str) -> bool:
    """Whether a mark may be in `text`: a fifth of a microsecond, since it is asked of every output that is graded."""
    if "<" in text or "THINK]" in text or "assistantfinal" in text or "my response:" in text:
        return True
    return not text.isascii() and "\u25b7" in text


def opened_by(prompt: str) -> str:
    """The mark of the thought that `prompt` leaves open at its end; "" when there is none."""
    found = _LEFT_OPEN.search(prompt, max(0, len(prompt) - _TAIL))
    return found[1] if found else ""


def told(template: str) -> Mapping[str, str]:
    """For the provenance of records: that thinking was turned off, where the template has a switch."""
    return {"thinking": "off"} if off(template) else {}


def marks(template: str) -> bool:
    """Whether a chat template knows of thoughts."""
    return any(one in template for one in (*MARKS, *MARKS.values(), "<|channel|>"))


def without_empty(prompt: str) -> str:
    """`prompt` without the empty thought at its end by which a template says that nothing is to be thought."""
    start = max(0, len(prompt) - _TAIL)
    return prompt[:start] + _EMPTY.sub("", prompt[start:])


@lru_cache(maxsize=64)
def off(template: str) -> Mapping[str, Any]:
    """What a chat template is to be given so that the model does not think: empty for one without a switch."""
    code = " ".join(_TAG.findall(template)) if any(name in template for name in SWITCHES) else ""
    return {name: value for name, value in SWITCHES.items() if re.search(rf"(?<![\w.'\"]){name}(?![\w'\"])", code)}


def _end(text: str, start: int, mark: str) -> int:
    """Where the thought ends that `mark` has opened before `start`; -1 when it does not end.

    A mark that is opened and closed inside it is part of it. Where the marks do not balance, the last one closes it.
    """
    depth, last = 1, -1
    for found in _both(mark).finditer(text, start):
        if found[1]:
            depth += 1
            continue
        depth, last = depth - 1, found.end()
        if not depth:
            break
    return last


@lru_cache(maxsize=64)
def _both(mark: str) -> re.Pattern[str]:
    end = MARKS[mark]
    return re.compile(f"({re.escape(mark)})|{ENDS.get(end, re.escape(end))}")


def _end_of_unopened(text: str) -> int:
    """Where a thought ends that was opened before the text, or by words; 0 when there is none."""
    if _BEGIN.match(text):
        return 0
    for opens, closes in zip(PROSE[::2], PROSE[1::2], strict=True):
        if (begin := opens.match(text)) and (found := closes.search(text, begin.end())):
            return found.end()
    ends = [(at, one, end) for one, end in MARKS.items() if (at := text.find(end)) >= 0]
    at, mark, end = min(ends, default=(-1, "", ""))
    if at < 0 or text.rfind(mark, 0, at) >= 0 or _is_json(text):
        return 0
    return at + len(end)


def _is_json(text: str) -> bool:
    """Whether the whole text is JSON: what looks like a mark in it is part of a text."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
