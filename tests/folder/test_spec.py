"""run.json of one model and of several: what is written, what is read, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid.canonical import digest, encode
from hybrid.errors import BadData
from hybrid.folder.medium import Disk
from hybrid.folder.runs import Run, join_folder, open_run, submit
from hybrid.folder.spec import MOST_ROLES, ModelSpec, check_spec, models_of
from hybrid.protocols import Inputs

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["backend", "name", "digest", "x"]), inner, max_size=4)
    ),
)
ONE, TWO = "1" * 64, "2" * 64
FIRST, JUDGE = ModelSpec("vllm", "org/model", ONE), ModelSpec("ollama", "llama3.2")
INPUTS = Inputs(tasks={"t": {}}, references={"t/0": "2"}, about={"data": "sums"})


def submitted(folder: Path, **further: ModelSpec) -> Run:
    return submit(join_folder(folder, make=True), "sums", {"n": 1}, INPUTS, {"": FIRST, **further})


def checked(spec: Any) -> None:
    check_spec(spec, f"{spec['pipeline']}-{digest(spec)[:12]}")


def test_a_run_of_one_model_is_written_as_version_1_byte_for_byte(tmp_path: Path) -> None:
    run = submitted(tmp_path)
    spec = {
        "format": "hybrid/run", "version": 1, "pipeline": "sums", "settings": {"n": 1}, "about": {"data": "sums"},
        "backend": "vllm", "model": "org/model", "model_digest": ONE,
        "inputs": run.spec["inputs"], "references": run.spec["references"],
    }  # fmt: skip
    assert (tmp_path / run.place / "run.json").read_bytes() == encode(spec) + b"\n"
    assert open_run(Disk(tmp_path), run.id).models == {"": FIRST}


def test_a_run_of_several_models_reads_as_it_was_written(tmp_path: Path) -> None:
    run = submitted(tmp_path, judge=JUDGE, embed=FIRST)
    read = open_run(Disk(tmp_path), run.id)
    assert (read.spec["version"], "model" in read.spec) == (2, False)
    assert list(read.models.items()) == [("", FIRST), ("embed", FIRST), ("judge", JUDGE)]
    assert submitted(tmp_path, embed=FIRST, judge=JUDGE).id == run.id, "the order of the roles says nothing"
    assert submitted(tmp_path, judge=JUDGE).id != run.id


def test_the_digest_of_a_stage_is_that_of_its_role(tmp_path: Path) -> None:
    run = submitted(tmp_path, judge=JUDGE)
    bound = Run(run.id, run.spec, run.folder, stage_roles={"answer": "", "judged": "judge"})
    assert (bound.pinned_digest("answer"), bound.pinned_digest("judged")) == (ONE, "")
    assert run.pinned_digest("answer") == "", "whose role nobody knows"
    assert submitted(tmp_path / "other").pinned_digest("answer") == ONE


@pytest.mark.parametrize(
    "models",
    [
        {}, {"": {}}, None, [], "x",
        {"": {"backend": "b", "name": "n", "digest": ONE}},
        {"judge": {"backend": "b", "name": "n", "digest": ONE}, "other": {"backend": "b", "name": "n", "digest": ONE}},
        {"": {"backend": "b", "name": "n", "digest": ONE}, "../x": {"backend": "b", "name": "n", "digest": ONE}},
        {"": {"backend": "b", "name": "n", "digest": ONE}, "judge": {"backend": "b", "name": "n", "digest": "../x"}},
        {"": {"backend": "b", "name": "n", "digest": ONE}, "judge": {"backend": "b", "name": 1, "digest": ""}},
        {"": {"backend": "b", "name": "n", "digest": ONE}, "judge": {"backend": "b", "name": "n"}},
        {"": {"backend": "b", "name": "n", "digest": ""}, "judge": {"backend": "b", "name": "n", "digest": "", "x": 1}},
        {role: {"backend": "b", "name": "n", "digest": ""} for role in ["", *(f"r{n}" for n in range(MOST_ROLES))]},
    ],
)  # fmt: skip
def test_models_that_are_none_are_refused(tmp_path: Path, models: Any) -> None:
    spec: dict[str, Any] = dict(submitted(tmp_path, judge=JUDGE).spec)
    checked(spec)
    with pytest.raises(BadData, match="fields are not those of a run"):
        checked({**spec, "models": models})


def test_a_version_has_its_own_members_and_a_later_one_is_refused(tmp_path: Path) -> None:
    two: dict[str, Any] = dict(submitted(tmp_path, judge=JUDGE).spec)
    one: dict[str, Any] = dict(submitted(tmp_path).spec)
    for wrong in ({**two, "version": 1}, {**one, "version": 2}, {**two, "model": "m"}):
        with pytest.raises(BadData, match="fields are not those"):
            checked(wrong)
    for version in (3, True, "2", None, [1]):
        with pytest.raises(BadData, match="this hybrid reads 1 and 2") as refused:
            checked({**two, "version": version})
        assert refused.value.hint == "update hybrid"


@settings(max_examples=50, deadline=None)
@given(models=st.dictionaries(st.sampled_from(["", "judge", "x/y"]), JSON, max_size=3) | JSON)
def test_any_json_as_models_is_models_or_refused(models: Any) -> None:
    spec: Any = {"format": "hybrid/run", "version": 2, "pipeline": "sums", "settings": {}, "about": {}}
    spec |= {"inputs": ONE, "references": TWO, "models": models}
    try:
        checked(spec)
    except (BadData, UnicodeEncodeError):
        return
    assert "" in models_of(spec)
