"""Separate a model's thought (reasoning) from its answer, and find how a chat template turns thinking off.

A thought is at the beginning of a text, between two marks. The text begins inside the thought if the prompt has opened
it, or if a closing mark comes without an opening one. A text that only mentions the marks is an answer. The search
takes linear time for any text.
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
"""Opening mark -> closing mark of a thought, as templates and models write them."""

ENDS: Mapping[str, str] = {
    "<|channel|>final<|message|>": r"(?:<\|end\|>)?(?:<\|start\|>assistant)?"
    r"<\|channel\|>final(?: ?<\|constrain\|>\w{1,20})?<\|message\|>|<\|end\|>(?!<\|start\|>)",
}
"""Closing marks that have several forms, as regular expressions."""

PROSE = (
    re.compile(r"\s*Here(?: is|'s) my thought process:"),  # Granite 3.2
    re.compile(r"Here(?: is|'s) my response:"),
    re.compile(r"\s*analysis"),  # gpt-oss, from an engine that omits special tokens
    re.compile(r"assistantfinal"),
)
"""Pairs of marks that are ordinary words, too: they count only when both are present."""

CHANNEL_TOKENS = frozenset({"<|channel|>", "<|start|>", "<|message|>", "<|constrain|>", "<|end|>"})
TOKENS = frozenset(re.findall(r"<[^<>]+>|\[/?THINK\]", " ".join([*MARKS, *MARKS.values()]))) - CHANNEL_TOKENS
"""Marks and parts of marks that may be special tokens, which a tokenizer then omits from decoded text.

CHANNEL_TOKENS count only for a tokenizer that has <|channel|>: other models end a turn with <|end|>.
"""

OFF_VALUES: Mapping[str, Any] = {
    "enable_thinking": False,  # Qwen3, SmolLM3, GLM, Hunyuan, EXAONE 4, Nemotron, Gemma 4
    "thinking": False,  # Granite, DeepSeek V3.1, Kimi K2
    "reasoning": False,  # Command A
    "thinking_budget": 0,  # Seed-OSS
}
"""Variable of a chat template -> the value that turns thinking off."""

_OPENS = "|".join(map(re.escape, sorted(MARKS, key=len, reverse=True)))
_BEGIN = re.compile(rf"\s*({_OPENS})")
_LEFT_OPEN = re.compile(rf"({_OPENS})\s*\Z")
_EMPTY = re.compile("|".join(rf"{re.escape(one)}\s*{re.escape(end)}\s*\Z" for one, end in MARKS.items()))
_TAIL = 256  # characters at the end of a prompt that are searched
_SPACE = re.compile(r"\s*")
_TAG = re.compile(r"\{[{%].*?[%}]\}", re.DOTALL)


class SplitText(NamedTuple):
    """The thought with its marks, and the answer after it; `text` is None when there is no answer."""

    thought: str
    text: str | None


def split(text: str, opened: str = "") -> SplitText:
    """Split `text` into thought and answer. `opened` is the mark with which the prompt has opened a thought."""
    if not opened and not is_marked(text):
        return SplitText("", text)
    end = _end(text, 0, opened) if opened else 0
    if end == 0:
        end = _end_of_unopened(text)
    while end >= 0 and (begin := _BEGIN.match(text, end)):
        end = _end(text, begin.end(), begin[1])
    if end == 0:
        return SplitText("", text)
    if end > 0:
        space = _SPACE.match(text, end)
        end = space.end() if space else end
    return SplitText(text, None) if end in (-1, len(text)) else SplitText(text[:end], text[end:])


def is_marked(text: str) -> bool:
    """Whether `text` may contain a mark. Fast (0.2 microseconds), since it is called for every graded output."""
    if "<" in text or "THINK]" in text or "assistantfinal" in text or "my response:" in text:
        return True
    return not text.isascii() and "\u25b7" in text


def opened_by(prompt: str) -> str:
    """The opening mark at the end of `prompt`; "" when it leaves no thought open."""
    found = _LEFT_OPEN.search(prompt, max(0, len(prompt) - _TAIL))
    return found[1] if found else ""


def thinking_provenance(template: str) -> Mapping[str, str]:
    """What records keep as provenance: that thinking was turned off, if the template can do that."""
    return {"thinking": "off"} if disabling_variables(template) else {}


def has_thoughts(template: str) -> bool:
    """Whether a chat template contains marks of thoughts."""
    return any(one in template for one in (*MARKS, *MARKS.values(), "<|channel|>"))


def without_empty(prompt: str) -> str:
    """`prompt` without the empty thought at its end with which a template turns thinking off."""
    start = max(0, len(prompt) - _TAIL)
    return prompt[:start] + _EMPTY.sub("", prompt[start:])


@lru_cache(maxsize=64)
def disabling_variables(template: str) -> Mapping[str, Any]:
    """The variables that turn thinking off in a chat template; empty when it has none."""
    code = " ".join(_TAG.findall(template)) if any(name in template for name in OFF_VALUES) else ""
    return {name: value for name, value in OFF_VALUES.items() if re.search(rf"(?<![\w.'\"]){name}(?![\w'\"])", code)}


def _end(text: str, start: int, mark: str) -> int:
    """The end of the thought that `mark` has opened before `start`; -1 when it does not end.

    Nested pairs of the same marks are part of it. If the marks do not balance, the last closing mark ends it.
    """
    depth, last = 1, -1
    for found in _mark_pair(mark).finditer(text, start):
        if found[1]:
            depth += 1
            continue
        depth, last = depth - 1, found.end()
        if not depth:
            break
    return last


@lru_cache(maxsize=64)
def _mark_pair(mark: str) -> re.Pattern[str]:
    end = MARKS[mark]
    return re.compile(f"({re.escape(mark)})|{ENDS.get(end, re.escape(end))}")


def _end_of_unopened(text: str) -> int:
    """The end of a thought that was opened in the prompt or by a pair of PROSE; 0 when there is none."""
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
    """Whether the whole text is JSON: then a mark in it is only quoted."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
