"""kept.md: what was kept can be read, with all that it grew from, and nothing in it is a model's markup."""

from __future__ import annotations

import json
import re
from contextlib import closing
from pathlib import Path

from hybrid.outputs import open_outputs
from pipelines.branch.kept import FIRST_LINE, kept_page
from pipelines.branch.reading import kept_of, path_to, trees
from pipelines.branch.tree_page import Names
from tests.support.hostile_texts import PAYLOADS
from tests.support.in_process import Hybrid
from tests.support.tree_runs import tree_outputs, tree_run


def test_each_kept_text_stands_there_with_what_it_grew_from_and_nothing_else_does(tmp_path: Path) -> None:
    outputs = tree_outputs()
    with closing(open_outputs(tree_run(tmp_path, outputs))) as opened:
        page = kept_page(opened.tasks, opened.records())
    assert page.startswith(f"{FIRST_LINE}\n\n## A detective on Mars\n\nA crime story.\n")
    ((_, nodes),) = trees(outputs)
    kept, by_id = kept_of(nodes), {one.id: one for one in nodes}
    assert [one.score for one in kept] == sorted((one.score for one in kept), reverse=True)
    assert re.findall(r"^### \d+\. (\S+)$", page, re.MULTILINE) == [one.id for one in kept]
    names = Names("", "mars", nodes, 100)
    facts = re.findall(r"^### .*\n\n(.*)$", page, re.MULTILINE)
    assert [[fact for fact in line.split(" · ") if fact.startswith("cluster")] for line in facts] == [
        [name] if (name := names.cluster(one)) else [] for one in kept
    ], "as the report calls it"
    assert any("cluster" in line for line in facts)
    quoted = [line[2:] for line in page.splitlines() if line.startswith("> ")]
    assert quoted == [step.text for one in kept for step in path_to(one, by_id)]


def test_markup_of_a_model_is_text() -> None:
    lively = [*PAYLOADS, "![x](https://example.invalid/x.png)", "[a](javascript:x)", "a\n# b\n---\n> c", "<b>\n\n</b>"]
    page = kept_page({"mars": {"title": lively[0], "brief": lively[-4]}}, tree_outputs(children=12, hostile=lively))
    for sign in ("<", "[", "]"):
        assert not re.search(rf"(?<!\\){re.escape(sign)}", page), sign
    assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e\u2066]", page)
    heads = [line for line in page.splitlines() if line.startswith("#")]
    assert all(re.match(r"# What was kept$|## |### \d+\. mars/", line) for line in heads)


def test_a_circle_of_parents_ends_and_a_run_without_candidates_says_so() -> None:
    odd = tree_outputs()
    for one in odd:
        one.view = {**one.view, "parent": "mars/0" if one.question != "mars/0" else "mars/1", "verdict": "kept"}
    assert kept_page({}, odd).count("### ") > 10
    assert "Nothing" in kept_page({}, [])


def test_a_local_run_of_a_preset_ends_with_the_page_beside_its_outputs(tmp_path: Path, hybrid: Hybrid) -> None:
    said = "A lamp burns in the tower every night although the keeper left it to the gulls many long winters ago."
    script = tmp_path / "script.json"
    script.write_text(json.dumps({"answers": {}, "default": said}))
    model = ("--backend", "scripted", "--model", script, "--folder", tmp_path / "folder")
    done = hybrid("run", "local", "branch", "--preset", "demo", "--set", "levels=1", *model)
    assert done.code == 3, "a model that always says the same leaves too few texts"
    (page,) = (tmp_path / "folder" / "results").glob("*/kept.md")
    text = page.read_text()
    assert text.startswith(FIRST_LINE)
    assert text.count(f"> {said[:40]}") == 1
    assert "texts kept" in text
