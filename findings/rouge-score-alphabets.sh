#!/bin/bash
# rouge-score 0.1.2 (google-research): ROUGE of texts that are not in English, with the default tokenizer.
# Expected: a text compared with itself has the F-measure 1, in any language; two different sentences have less.
# Seen: everything but a-z and 0-9 is taken for a space, without a word. A Russian, Greek or Chinese text compared with itself scores 0.
# Letters with accents cut words in two: of two French words that differ, what is left is the same, and they score 1. A tokenizer
# that keeps letters gives 1 for all equal texts and 0 for the two words.
# Exits 0 while it behaves so, 1 when it does not any more. Installs about 100 MB, takes seconds.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check rouge-score==0.1.2 numpy==2.3.5 nltk==3.9.2 absl-py==2.3.1 six==1.17.0
cat > try.py <<'P'
import re
import sys
from importlib.metadata import version

from rouge_score import rouge_scorer

TEXTS = {"English": "the cat is asleep", "Russian": "кошка спит", "Greek": "η γάτα κοιμάται", "Chinese": "猫 在 睡觉"}
TWO = "pêche", "pâche"


class Letters:
    def tokenize(self, text):
        return re.findall(r"\w+", text.lower())


def scores(**how):
    scorer = rouge_scorer.RougeScorer(["rougeL"], **how)
    same = {name: scorer.score(text, text)["rougeL"].fmeasure for name, text in TEXTS.items()}
    return same, scorer.score(*TWO)["rougeL"].fmeasure


default, letters = scores(), scores(tokenizer=Letters())
print(f"rouge-score {version('rouge-score')}: ROUGE-L of a text with itself, and of {TWO[0]} and {TWO[1]}:")
print(f"default {default}, with letters kept {letters}")
expected = ({"English": 1.0, "Russian": 0, "Greek": 0, "Chinese": 0}, 1.0), (dict.fromkeys(TEXTS, 1.0), 0)
sys.exit(0 if (default, letters) == expected else 1)
P
env/bin/python try.py
