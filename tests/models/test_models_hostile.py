"""No manifest or name can write outside of the destination, and inconsistent manifests are refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hybrid.canonical import encode
from hybrid.errors import BadData, HybridError
from hybrid.folder.medium import Disk
from hybrid.folder.names import allowed
from hybrid.folder.runs import join_folder
from hybrid.models import catalog
from hybrid.models.manifest import Model, read_models, verify_model
from hybrid.models.names import OllamaName, is_inner
from hybrid.models.ollama_manifest import layers_of
from hybrid.models.ollama_store import OllamaStore
from hybrid.models.packing import pack, plain_source
from hybrid.models.restoring import restore_ollama, restore_plain
from tests.support.packed_models import PART, files_of, ignore_progress, noise, packed, republish, sha256_of, tensors

ZERO = "0" * 64


def plain_model(root: Path) -> tuple[Disk, Model]:
    source = root / "source"
    (source / "sub").mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "sub/config.json"):
        content = noise(1500, seed=len(name))
        (source / name).write_bytes(encode({"noise": content.hex()}) if name.endswith(".json") else tensors(content))
    folder = join_folder(root / "folder", make=True)
    return folder, pack(folder, plain_source(source, ""), ignore_progress, part_size=PART)


@pytest.mark.parametrize(
    ("text", "whole", "shown"),
    [
        ("a", "registry.ollama.ai/library/a/latest", "a:latest"),
        ("a:7b", "registry.ollama.ai/library/a/7b", "a:7b"),
        ("me/a", "registry.ollama.ai/me/a/latest", "me/a:latest"),
        ("hf.co/me/a.GGUF:Q4_K_M", "hf.co/me/a.GGUF/Q4_K_M", "hf.co/me/a.GGUF:Q4_K_M"),
        ("localhost:5000/me/a:b", "localhost:5000/me/a/b", "localhost:5000/me/a:b"),
    ],
)
def test_a_name_is_completed_as_ollama_does(text: str, whole: str, shown: str) -> None:
    name = OllamaName.parse(text)
    assert ("/".join(name.parts), str(name)) == (whole, shown)
    assert OllamaName.parse(shown) == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        "../a",
        "a/../../b/c",
        "/a",
        "a/",
        "a:",
        ":a",
        "a:..",
        "a:.b",
        "a/b/c/d/e",
        "-a",
        "a b",
        "a\0",
        "é",
        "a\\b",
        "a\n",
        "a:b:c",
        "..:a/b",
        ".h/a/b",
        "a/.b/c",
        "a" * 81,
        "a.b/c/d/e:f",
        "C:\\x",
        "a//b",
    ],
)
def test_a_name_that_leads_elsewhere_is_none(text: str) -> None:
    with pytest.raises(BadData):
        OllamaName.parse(text)


@given(st.text(alphabet=st.sampled_from("aA0_-.:/\\~ \0é"), max_size=30))
def test_whatever_name_is_taken_stays_inside(text: str) -> None:
    with suppress(BadData):
        name = OllamaName.parse(text)
        assert len(name.parts) == 4
        assert all(part.strip(".") and not {"/", "\\", "\0"} & set(part) and part[0] != "." for part in name.parts)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc/x",
        "../x",
        "a/../x",
        "a//b",
        "./a",
        "a/",
        "a\\b",
        "C:x",
        "con.json",
        "a/NUL",
        "a.",
        "a ",
        "a:b",
        "a\0b",
        "~/x",
        ".git/x",
        "a/b/c/d/e",
        "x" * 121,
        "é",
        "a..b",
        "hybrid\n",
    ],
)
def test_a_path_that_leads_elsewhere_is_none(path: str) -> None:
    assert not is_inner(path)


def test_usual_paths_are_taken() -> None:
    for path in ("config.json", "model-00001-of-00002.safetensors", "1_Pooling/config.json", "qwen.tiktoken"):
        assert is_inner(path)


Change = Callable[[dict[str, Any]], Any]


def set_in_layer(**members: Any) -> Change:
    return lambda value: value["layers"][0].update(members)


CHANGES: dict[str, Change] = {
    "kind": lambda value: value.update(kind="tar"),
    "name": lambda value: value.update(name="../../x"),
    "name of no model": lambda value: value.update(name=""),
    "digest": lambda value: value.update(digest=ZERO),
    "digest that is a path": lambda value: value.update(digest="../" + ZERO[3:]),
    "part size 0": lambda value: value.update(part_size=0),
    "part size": lambda value: value.update(part_size=10**30),
    "part size true": lambda value: value.update(part_size=True),
    "no layers": lambda value: value.update(layers=[]),
    "layers of nothing": lambda value: value.update(layers=None),
    "layer of nothing": lambda value: value["layers"].append(None),
    "a layer more": lambda value: value["layers"].append(value["layers"][0]),
    "a layer less": lambda value: value["layers"].pop(-2),
    "size": set_in_layer(size=10**18),
    "negative size": set_in_layer(size=-1),
    "size 1.0": set_in_layer(size=1.0),
    "size true": set_in_layer(size=True),
    "sha256": set_in_layer(sha256="../../../../canary"),
    "sha256 in capitals": set_in_layer(sha256="A" * 64),
    "absolute path": set_in_layer(path="/canary"),
    "path up": set_in_layer(path="../canary"),
    "path of Windows": set_in_layer(path="..\\canary"),
    "path of another file": lambda value: value["layers"][0].update(path=value["layers"][1]["path"]),
    "path below a file": lambda value: value["layers"][0].update(path=value["layers"][1]["path"] + "/x"),
    "no parts": set_in_layer(parts=[]),
    "a part that is a path": set_in_layer(parts=["../../canary"]),
    "too many parts": lambda value: value["layers"][0]["parts"].append(ZERO),
    "unknown member": lambda value: value.update(more=1),
    "version": lambda value: value.update(version=2),
    "format": lambda value: value.update(format="hybrid/run"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("kind", ["ollama", "folder"])
def test_a_manifest_that_does_not_fit_together_is_refused_and_named(tmp_path: Path, kind: str, change: Change) -> None:
    folder, model = packed(tmp_path)[::2] if kind == "ollama" else plain_model(tmp_path)
    value = json.loads(model.to_bytes())
    change(value)
    (folder.root / model.path).unlink()
    path = republish(folder, model, value)
    models, refused = read_models(folder)
    assert models == []
    assert [path in error.message and isinstance(error, BadData) for error in refused] == [True]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[" * 100_000,
        b'{"format":"hybrid/model","format":"hybrid/model"}',
        b"\xff\xfe",
        b"<html>error</html>",
        b"null",
        b'{"format":"hybrid/model","version":1e400}',
    ],
)
def test_what_is_no_manifest_is_refused_whatever_it_is(tmp_path: Path, data: bytes) -> None:
    folder = join_folder(tmp_path, make=True)
    folder.write(f"models/manifests/model-{sha256_of(data)}.json", data)
    folder.write(f"models/manifests/model-{ZERO}.json", b"{}")
    models, refused = read_models(folder)
    assert (models, len(refused)) == ([], 2)


def test_a_name_that_stands_twice_in_a_manifest_is_refused(tmp_path: Path) -> None:
    _, _, model = packed(tmp_path)
    data = model.to_bytes().replace(b'{"digest":', b'{"digest":"x","digest":', 1)
    with pytest.raises(BadData, match="a name stands twice"):
        verify_model(f"models/manifests/model-{sha256_of(data)}.json", data)


LAYER = {"digest": f"sha256:{ZERO}", "size": 3}
GOOD = {"schemaVersion": 2, "config": LAYER, "layers": [LAYER]}


@pytest.mark.parametrize(
    "source",
    [
        b"",
        b"[]",
        b"{",
        b"\xff",
        b"[" * 100_000,
        b'{"config":{},"layers":[],"x":' + b"9" * 5000 + b"}",
        json.dumps({**GOOD, "layers": {}}).encode(),
        json.dumps({**GOOD, "config": None}).encode(),
        json.dumps({**GOOD, "layers": [{**LAYER, "size": 4}]}).encode(),
        json.dumps({**GOOD, "layers": [{**LAYER, "size": -1}]}).encode(),
        json.dumps({**GOOD, "layers": [{**LAYER, "size": 2**60}]}).encode(),
        json.dumps({**GOOD, "layers": [{**LAYER, "digest": "sha256:../../x"}]}).encode(),
        json.dumps({**GOOD, "layers": [{**LAYER, "digest": f"sha512:{ZERO}"}]}).encode(),
        json.dumps({**GOOD, "layers": [None]}).encode(),
        json.dumps({**GOOD, "Layers": []}).encode(),
        json.dumps({"Config": LAYER, "layers": []}).encode(),
        b'{"config":{"digest":"sha256:%s","size":3},"layers":[],"layers":[]}' % ZERO.encode(),
        b'{"config":{"digest":"sha256:%s","size":NaN},"layers":[]}' % ZERO.encode(),
    ],
)
def test_a_manifest_that_ollama_could_read_otherwise_is_refused(source: bytes) -> None:
    with pytest.raises(BadData, match=r"^here"):
        layers_of(source, what="here")


def test_a_layer_whose_parts_do_not_make_it_is_never_installed(tmp_path: Path) -> None:
    """Every part and the manifest verify, but the digest of the layer is wrong."""
    folder, _, model = packed(tmp_path)
    lie = sha256_of(b"something else")
    true = max(model.layers, key=lambda layer: layer.size)
    source = model.source.replace(true.sha256, lie)
    value = json.loads(model.to_bytes())
    for layer in value["layers"]:
        if layer["sha256"] == true.sha256:
            layer.update(sha256=lie, path=f"sha256-{lie}")
    for path in [part.path for part in true.parts]:
        folder.write(path.replace(f"{true.sha256[:2]}/{true.sha256}", f"{lie[:2]}/{lie}"), folder.read(path, PART))
    path = republish(folder, model, {**value, "source": source, "digest": sha256_of(source.encode())})
    hostile = verify_model(path, folder.read(path, 10**6))
    with pytest.raises(BadData, match="not what it is named by"):
        restore_ollama(folder, hostile, OllamaStore(tmp_path / "other"), OllamaName.parse("x"), ignore_progress)
    assert [name for name in files_of(tmp_path / "other") if not name.startswith("hybrid-restore/")] == []
    assert "not what it is named by" in catalog.check(folder, [hostile], ignore_progress)[0].message


@pytest.mark.slow
def test_a_model_larger_than_the_disk_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    folder, _, model = packed(tmp_path)
    size, part = 2**44, 64 * 1024 * 1024
    hashes = [ZERO] * 200_000
    assert size // part > 200_000
    value = json.loads(model.to_bytes())
    layer = {"path": f"sha256-{ZERO}", "sha256": ZERO, "size": 200_000 * part, "parts": hashes}
    source = json.dumps({"config": {"digest": f"sha256:{ZERO}", "size": 200_000 * part}, "layers": []})
    digest = sha256_of(source.encode())
    path = republish(folder, model, {**value, "layers": [layer], "source": source, "digest": digest, "part_size": part})
    hostile = verify_model(path, folder.read(path, 2**24))
    with pytest.raises(HybridError, match="no room for the model"):
        restore_ollama(folder, hostile, OllamaStore(tmp_path / "other"), OllamaName.parse("x"), ignore_progress)
    assert not (tmp_path / "other").exists()


VALUES = st.sampled_from(
    [
        "",
        "x",
        "..",
        "../canary",
        "/canary",
        "..\\canary",
        "a/b",
        "con",
        "\0",
        ZERO,
        "f" * 64,
        "0" * 63,
        0,
        1,
        -1,
        2**63,
        1.5,
        True,
        None,
        [],
        {},
        [ZERO],
        "config.json",
        "config.json/x",
        "sha256-" + ZERO,
        "canary.json",
        "CONFIG.json",
    ]
)
MEMBERS = st.sampled_from(["kind", "name", "digest", "source", "part_size", "layers"])
LAYER_MEMBERS = st.sampled_from(["path", "sha256", "size", "parts"])


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> tuple[Disk, list[Model]]:
    root = tmp_path_factory.mktemp("good")
    folder, model = plain_model(root)
    _, _, other = packed(root)
    return folder, [model, other]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_manifest_writes_outside_of_its_place(
    good: tuple[Disk, list[Model]], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """A changed manifest is refused, or what it restores is inside the destination and has the digests it names."""
    folder, models = good
    value = json.loads(data.draw(st.sampled_from(models)).to_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        layers = [layer for layer in value["layers"] if isinstance(layer, dict)] if value["layers"] else []
        if layers and data.draw(st.booleans()):
            data.draw(st.sampled_from(layers))[data.draw(LAYER_MEMBERS)] = data.draw(VALUES)
        else:
            value[data.draw(MEMBERS)] = data.draw(VALUES)
        if not isinstance(value["layers"], list):
            break
    if data.draw(st.booleans()) and isinstance(value["layers"], list):  # a digest that fits, so that more is reached
        _fit(value)
    raw = encode(value) + b"\n"
    root = tmp_path_factory.mktemp("restore")
    with suppress(HybridError):
        model = verify_model(f"models/manifests/model-{sha256_of(raw)}.json", raw)
        assert all(allowed(part) for path in model.parts for part in path.split("/"))
        _restore(folder, model, root / "inside" / "deep")
    assert {path.name for path in root.iterdir()} <= {"inside"}
    assert {path.name for path in (root / "inside").glob("*")} <= {"deep"}


def _fit(value: dict[str, Any]) -> None:
    from hybrid.models.manifest import Layer, folder_digest

    with suppress(TypeError, KeyError, AttributeError, ValueError):
        if value["kind"] == "folder":
            layers = tuple(Layer(layer["path"], layer["sha256"], layer["size"]) for layer in value["layers"])
            value["digest"] = folder_digest(layers)
        if value["kind"] == "ollama":
            value["digest"] = hashlib.sha256(value["source"].encode()).hexdigest()


def _restore(folder: Disk, model: Model, to: Path) -> None:
    if model.kind == "ollama":
        restore_ollama(folder, model, OllamaStore(to), OllamaName.parse(model.name), ignore_progress)
    else:
        restore_plain(folder, model, to, ignore_progress)
    inside = files_of(to)
    places = {f"blobs/{layer.path}" if model.kind == "ollama" else layer.path: layer for layer in model.layers}
    assert all(sha256_of(inside[path]) == layer.sha256 for path, layer in places.items())
