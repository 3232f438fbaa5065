#!/bin/bash
# The four libraries that hold a model's answer to a JSON schema (vLLM offers all of them): xgrammar 0.2.8, llguidance 1.7.6,
# outlines_core 0.2.14, lm-format-enforcer 0.11.3. Each gets the same small schemas, an answer that each allows and one that it
# forbids (jsonschema agrees).
# Expected: an engine holds the answer to a keyword of the schema, or refuses the schema.
# Seen: only llguidance does. The others take schemas whose keywords they do not know, without an error:
# - outlines_core ignores minimum, maximum and multipleOf, so a rating from 1 to 5 may be 7; of allOf it makes one text after the
#   other, so that the answer which both parts allow is refused.
# - lm-format-enforcer ignores minimum and maximum of integers and of numbers, multipleOf, allOf, format.
# - xgrammar holds the bounds, but not those inside of allOf, and not a pattern's look-ahead (for both it writes a line to stderr).
# - uniqueItems, not, contains, if, dependentRequired: ignored by all three.
# Exits 0 while it behaves so, 1 when it does not any more. Installs about 6 GB (xgrammar imports torch), takes minutes.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check xgrammar==0.2.8 torch==2.13.0 llguidance==1.7.6 \
  outlines_core==0.2.14 lm-format-enforcer==0.11.3 jsonschema==4.26.0
cat > try.py <<'P'
import json
import re
import sys
from importlib.metadata import version

import jsonschema
import llguidance
import xgrammar
from lmformatenforcer import JsonSchemaParser
from outlines_core.json_schema import build_regex_from_schema

INTEGER = {"type": "integer"}
INTEGERS = {"type": "array", "items": INTEGER}
PAIR = {"type": "object", "properties": {"a": INTEGER, "b": INTEGER}}
# What is asked for, the schema, an answer that it allows, one that it forbids.
CASES = [
    ("bounds", INTEGER | {"minimum": 1, "maximum": 5}, "3", "7"),
    ("bounds of a number", {"type": "number", "minimum": 0, "maximum": 1}, "0.5", "1.5"),
    ("multipleOf", INTEGER | {"multipleOf": 5}, "10", "7"),
    ("allOf", {"allOf": [INTEGER | {"minimum": 1}, INTEGER | {"maximum": 5}]}, "3", "7"),
    ("look-ahead", {"type": "string", "pattern": "^(?!no)[a-z]+$"}, '"yes"', '"no"'),
    ("format", {"type": "string", "format": "date"}, '"2024-02-03"', '"hello"'),
    ("uniqueItems", INTEGERS | {"uniqueItems": True}, "[1, 2]", "[1, 1]"),
    ("contains", INTEGERS | {"contains": {"const": 1}}, "[1, 2]", "[2, 2]"),
    ("not", {"type": "string", "not": {"enum": ["no"]}}, '"yes"', '"no"'),
    ("if", PAIR | {"required": ["a", "b"], "if": {"properties": {"a": {"const": 1}}},
                   "then": {"properties": {"b": {"const": 2}}}}, '{"a": 1, "b": 2}', '{"a": 1, "b": 3}'),
    ("dependentRequired", PAIR | {"dependentRequired": {"a": ["b"]}}, '{"a": 1, "b": 2}', '{"a": 1}'),
    ("required", PAIR | {"required": ["a", "b"]}, '{"a": 1, "b": 2}', '{"a": 1}'),
    ("maxItems", INTEGERS | {"maxItems": 2}, "[1, 2]", "[1, 2, 3]"),
]


def takes_xgrammar(schema):
    bytes_ = xgrammar.TokenizerInfo([chr(byte) for byte in range(256)], stop_token_ids=[0])
    compiled = xgrammar.GrammarCompiler(bytes_).compile_json_schema(json.dumps(schema))

    def takes(answer):
        matcher = xgrammar.GrammarMatcher(compiled)
        return matcher.accept_string(answer) and matcher.accept_token(0)

    return takes


def takes_llguidance(schema):
    bytes_ = llguidance.LLTokenizer("byte")
    grammar = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema))
    if error := llguidance.LLMatcher.validate_grammar(grammar, bytes_):
        raise ValueError(error)

    def takes(answer):
        matcher, tokens = llguidance.LLMatcher(bytes_, grammar), bytes_.tokenize_str(answer)
        if matcher.validate_tokens(tokens) < len(tokens):
            return False
        matcher.consume_tokens(tokens)
        return matcher.is_accepting()

    return takes


def takes_outlines(schema):
    pattern = re.compile(build_regex_from_schema(json.dumps(schema)))
    return pattern.fullmatch


def takes_enforcer(schema):
    def takes(answer):
        parser = JsonSchemaParser(schema)
        for character in answer:
            if character not in parser.get_allowed_characters():
                return False
            parser = parser.add_character(character)
        return parser.can_end()

    return takes


def seen(engine, schema, good, bad):
    try:
        takes = engine(schema)
        answers = bool(takes(good)), bool(takes(bad))
    except Exception:
        return "refused"
    return {(True, False): "held", (True, True): "IGNORED"}.get(answers, "WRONG")


ENGINES = {
    "xgrammar": takes_xgrammar,
    "llguidance": takes_llguidance,
    "outlines_core": takes_outlines,
    "lm-format-enforcer": takes_enforcer,
}
print(f"{'':20}" + "".join(f"{f'{name} {version(name)}':27}" for name in ENGINES))
table = {}
for asked, schema, good, bad in CASES:
    valid = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker()).is_valid
    assert valid(json.loads(good)) and not valid(json.loads(bad)), asked
    table[asked] = [seen(engine, schema, good, bad) for engine in ENGINES.values()]
    print(f"{asked:20}" + "".join(f"{one:27}" for one in table[asked]))
EXPECTED = {
    "bounds": ["held", "held", "IGNORED", "IGNORED"],
    "bounds of a number": ["held", "held", "IGNORED", "IGNORED"],
    "multipleOf": ["held", "held", "IGNORED", "IGNORED"],
    "allOf": ["IGNORED", "held", "WRONG", "IGNORED"],
    "look-ahead": ["IGNORED", "refused", "held", "held"],
    "format": ["held", "held", "held", "IGNORED"],
    **dict.fromkeys(
        ("uniqueItems", "contains", "not", "if", "dependentRequired"), ["IGNORED", "refused", "IGNORED", "IGNORED"]
    ),
    **dict.fromkeys(("required", "maxItems"), ["held"] * 4),
}
sys.exit(0 if table == EXPECTED else 1)
P
env/bin/python try.py
