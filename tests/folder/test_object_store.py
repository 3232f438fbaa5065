"""A folder in an object store answers as a directory does, whatever the server can do; its errors tell no key."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from hybrid.errors import BadData, CannotRun, HybridError, Temporary, UsageError
from hybrid.folder import object_store
from hybrid.folder.child import IsolatedFolder
from hybrid.folder.medium import Disk, Entry, NotThere
from hybrid.folder.object_store import ObjectStore, medium_at
from hybrid.folder.runs import folder_above, join_folder
from hybrid.machine import home
from hybrid.machine.redaction import redacted
from hybrid.machine.store_urls import file_name, url_of
from hybrid.worker.ray_actor import RayWorker
from tests.protocol.test_simulator import exercise
from tests.support.in_process import Hybrid
from tests.support.s3_servers import BUCKET, KEY_ID, SECRET, SmallS3, environment, served, served_by_rclone
from tests.support.small_gguf import header

obstore = pytest.importorskip("obstore.store", reason="needs obstore: pip install '.[s3]'")
URL = f"s3://{BUCKET}/some/place"


@pytest.fixture
def small() -> SmallS3:
    return SmallS3()


@pytest.fixture
def store(small: SmallS3, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    with served(small) as endpoint:
        for name, value in environment(endpoint).items():
            monkeypatch.setenv(name, value)
        yield ObjectStore(URL)


@pytest.mark.parametrize("kind", ["memory", "disk", "create", "refuses-create", "ignores-create", "google", "rclone"])
def test_a_store_answers_as_a_directory_does(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir()
    real = exercise(Disk(tmp_path / "real"))
    conditional = {"create": "412", "refuses-create": "501", "ignores-create": ""}
    with ExitStack() as stack:
        client = None
        if kind == "memory":
            client = obstore.MemoryStore()
        elif kind == "disk":
            (tmp_path / "local").mkdir()
            client = obstore.LocalStore(tmp_path / "local")
        elif kind == "google":
            key = {"private_key": "x", "private_key_id": "x", "client_email": "x", "disable_oauth": True}
            key["gcs_base_url"] = stack.enter_context(served(SmallS3()))
            config, options = {"service_account_key": json.dumps(key)}, {"allow_http": True}
            client = obstore.GCSStore(BUCKET, prefix="some/place", config=config, client_options=options)
        else:
            server = (
                served_by_rclone(tmp_path / "s3")
                if kind == "rclone"
                else served(SmallS3(conditional=conditional[kind]))
            )
            for name, value in environment(stack.enter_context(server)).items():
                monkeypatch.setenv(name, value)
        found = exercise(store := ObjectStore(URL, client))
        store.remove("a/b/x")
        store.remove("a/b/x")
        with pytest.raises(NotThere, match=f"{URL}/a/b/x"):
            store.read("a/b/x", 9)
    differing = {number: said for number, (said, wanted) in enumerate(zip(found, real, strict=True)) if said != wanted}
    # a store has no folders: no name is in the way of another, unless there is a disk below
    assert [real[number] for number in (13, 21, 25, 26)] == ["BadData"] * 4
    below = "Temporary" if kind in ("disk", "rclone") else ""
    assert differing == {13: [], 21: "NotThere", 25: below, 26: below}


def test_every_page_of_a_listing_is_read(store: ObjectStore, small: SmallS3) -> None:
    small.page = 7
    small.objects = {f"some/place/runs/{number:03d}/x": b"" for number in range(40)}
    small.objects |= {f"some/place/runs/{number:03d}.json": b"" for number in range(40)}
    small.objects |= {"some/place/runs/": b"", "some/placebo/runs/x": b"", "other": b""}
    found = store.entries("runs")
    assert {entry for entry in found if entry.kind == "folder"} == {Entry(f"{n:03d}", "folder") for n in range(40)}
    assert {entry for entry in found if entry.kind == "file"} == {Entry(f"{n:03d}.json", "file") for n in range(40)}
    assert len(found) == 80
    assert store.entries("") == [Entry("runs", "folder")]


def test_a_place_with_more_entries_than_any_folder_has_is_refused(
    store: ObjectStore, small: SmallS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_store, "MOST_ENTRIES", 3)
    small.objects = {f"some/place/{number}": b"" for number in range(4)}
    with pytest.raises(BadData, match=f"{URL}/: more than 3 entries"):
        store.entries("")


def test_a_size_is_known_before_the_file_is_read(store: ObjectStore, small: SmallS3) -> None:
    small.objects["some/place/x"] = bytes(1001)
    assert store.read("x", 1001) == bytes(1001)
    with pytest.raises(BadData, match=f"{URL}/x: larger than the 1,000 bytes"):
        store.read("x", 1000)
    with pytest.raises(BadData, match="holds other content"):
        store.write("x", b"")
    store.write("x", b"", heal=True)
    assert small.objects["some/place/x"] == b""


def test_a_file_that_another_one_writes_meanwhile_is_not_overwritten(store: ObjectStore, small: SmallS3) -> None:
    def meanwhile(method: str, path: str) -> None:
        if method == "PUT":
            small.objects["some/place/x"] = b"theirs"

    small.fault = meanwhile
    with pytest.raises(BadData, match="holds other content"):
        store.write("x", b"ours")
    assert small.objects["some/place/x"] == b"theirs"
    store.write("x", b"theirs")


ANSWERS = [
    (403, "InvalidAccessKeyId", CannotRun, "no permission (InvalidAccessKeyId)"),
    (403, "AccessDenied", CannotRun, "no permission (AccessDenied)"),
    (403, "RequestTimeTooSkewed", CannotRun, "clock is wrong"),
    (404, "NoSuchBucket", CannotRun, "no such bucket"),
    (400, "AuthorizationHeaderMalformed", CannotRun, "another region"),
    (507, "InsufficientStorage", Temporary, "no room left in the store"),
    (503, "SlowDown", Temporary, "answered with SlowDown"),
    (418, "", Temporary, "answered with 418"),
]


@pytest.mark.parametrize(("status", "code", "kind", "said"), ANSWERS)
def test_errors_of_the_server_are_explained_without_its_words(
    store: ObjectStore,
    small: SmallS3,
    status: int,
    code: str,
    kind: type[HybridError],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(object_store, "MOST_RETRIES", 0)
    named = f"<Code>{code}</Code>" if code else ""
    body = f"<Error>{named}<Message>{KEY_ID} {SECRET}</Message></Error>".encode()
    small.fault = lambda method, path: (status, body)
    calls = [lambda: store.entries("runs"), lambda: store.read("x", 9), lambda: store.write("x", b"")]
    for call in calls:
        with pytest.raises(kind, match=re.escape(said)) as raised:
            call()
        assert URL in raised.value.message
        assert raised.value.hint
        told = (
            f"{raised.value.message} {raised.value.hint} {raised.value.__cause__} {raised.value.__suppress_context__}"
        )
        assert KEY_ID not in told
        assert SECRET not in told
        assert told.endswith("None True")  # so that a traceback in a log has nothing either


def test_errors_that_pass_are_tried_again(store: ObjectStore, small: SmallS3) -> None:
    failures = iter([(503, b""), (500, b"")])
    small.fault = lambda method, path: next(failures, None)
    store.write("x", b"x")
    assert store.read("x", 9) == b"x"


def test_a_server_that_is_away_or_hangs_is_given_up(
    store: ObjectStore, small: SmallS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_store, "MOST_RETRIES", 0)
    monkeypatch.setattr(object_store, "REQUEST_SECONDS", 0.2)
    monkeypatch.setattr(object_store, "LIST_SECONDS", 0.1)
    given_up = threading.Event()
    small.fault = lambda method, path: (503, b"") if given_up.wait(240) else None
    for call in (lambda: store.entries(""), lambda: store.read("x", 9), lambda: store.write("x", b"x")):
        with pytest.raises(Temporary, match=f"{URL}.*(could not be reached|not listed within)"):
            call()
    given_up.set()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(Temporary, match="could not be reached"):
        ObjectStore(URL).read("x", 9)


@pytest.mark.parametrize("path", ["../x", "/x", "a/../../x", "a\\b", "a\0b", "a\nb"])
def test_no_path_leads_out_of_the_folder(store: ObjectStore, small: SmallS3, path: str) -> None:
    for call in (lambda: store.entries(path), lambda: store.read(path, 9), lambda: store.write(path, b"")):
        with pytest.raises(BadData, match="not a path inside a folder"):
            call()
    assert not small.requests


def test_without_keys_or_over_http_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*sum(object_store.KEYS.values(), ()), *object_store.ENDPOINTS, "AWS_ALLOW_HTTP"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(CannotRun, match="has no keys") as raised:
        ObjectStore(URL).read("x", 9)
    assert "AWS_ACCESS_KEY_ID" in raised.value.hint
    with pytest.raises(CannotRun, match="has no keys") as raised:
        ObjectStore("gs://bucket/x").read("x", 9)
    assert "GOOGLE_SERVICE_ACCOUNT_PATH" in raised.value.hint
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", f"{{not json {SECRET}")
    with pytest.raises(CannotRun, match="what the environment says") as raised:
        ObjectStore("gs://bucket/x").read("x", 9)
    assert SECRET not in str(raised.value)
    assert SECRET not in redacted(f"a log with {{not json {SECRET}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://example.invalid")
    with pytest.raises(CannotRun, match="the endpoint in the environment is http"):
        ObjectStore(URL).read("x", 9)


def test_a_url_is_a_folder_of_this_machine_and_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    urls = ["s3://bucket", "s3://bucket/a", "s3://bucket/A", "s3://bucket/a/b.c-d_e", "gs://bucket/a"]
    assert [url_of(file_name(url)) for url in urls] == urls
    assert len({file_name(url).casefold() for url in urls}) == len(urls)
    for url in urls:
        place = home.folder_at(f"{url}/")
        assert home.store_url(place) == home.shown(place) == url
        home.set_joined_folder(place)
        assert home.joined_folder() == place
        assert home.store_url(place / "results") == ""
        assert str(medium_at(place)) == url
    assert len({home.received_of(home.folder_at(url)) for url in urls}) == len(urls)
    assert isinstance(medium_at(tmp_path), Disk)
    assert home.store_url(tmp_path) == url_of("s3+..") == url_of("s3+bucket+=a=") == ""
    for wrong in ("s3://", "s3://b", "s3://bucket//x", "s3://bucket/../x", "http://bucket/x", "s3://bucket/a b",
                  f"s3://{KEY_ID}:{SECRET}@bucket/x", "s3://bucket/" + "x/" * 100):  # fmt: skip
        with pytest.raises(UsageError, match="is not a folder in a store") as raised:
            home.folder_at(wrong)
        assert SECRET not in str(raised.value)


def test_a_folder_is_made_in_a_store_and_none_within_another(store: ObjectStore, small: SmallS3) -> None:
    place = home.folder_at(URL)
    with pytest.raises(NotThere, match=f"{URL} is not a folder of hybrid"):
        join_folder(place, make=False)
    join_folder(place, make=True)
    assert json.loads(small.objects["some/place/hybrid.json"]) == {"format": "hybrid/folder", "version": 1}
    join_folder(place, make=True)
    assert folder_above(home.folder_at(f"{URL}/x")) == URL
    assert folder_above(place) == ""
    small.objects["some/place/hybrid.json"] = b"{}"
    small.conditional = ""
    with pytest.raises(BadData, match="not the mark of a folder"):
        join_folder(place, make=True)
    assert small.objects["some/place/hybrid.json"] == b"{}"


def test_a_store_is_reached_through_a_process_as_a_mount_is(store: ObjectStore, small: SmallS3) -> None:
    with closing(IsolatedFolder(home.folder_at(URL), seconds=60)) as isolated:
        isolated.write("a/x", b"one")
        assert isolated.read("a/x", 9) == b"one"
        assert isolated.entries("a") == [Entry("x", "file")]
        assert isolated.read_several(["a/x", "a/x"], 9) == [b"one", b"one"]
        assert str(isolated) == URL
        with pytest.raises(NotThere, match=f"{URL}/a/y"):
            isolated.read("a/y", 9)


def test_a_node_of_a_cluster_sees_the_store_by_its_url(
    store: ObjectStore, small: SmallS3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    place = join_folder(home.folder_at(URL), make=True)
    place.write("runs/sums-0123456789ab/run.json", b"{}")
    monkeypatch.setenv("HYBRID_HOME", str(tmp_path / "of another node"))
    assert list(RayWorker(URL, [], None).look()["runs"]) == ["sums-0123456789ab"]


def test_commands_take_a_store_or_say_that_it_is_not_offered(
    store: ObjectStore, small: SmallS3, hybrid: Hybrid, tmp_path: Path
) -> None:
    assert hybrid("init", f"{URL}/").stdout == f"{URL}\n"
    assert "there is no run in the folder yet" in hybrid("status").stdout
    done = hybrid("doctor", "--folder", URL)
    assert (done.code, done.stdout.splitlines()[0]) == (0, URL), done.stderr
    assert "a probe was written and read back" in done.stdout
    assert hybrid("init", f"{URL}/within").code == 2
    (tmp_path / "model.gguf").write_bytes(model := header({}))
    assert hybrid("models", "pack", tmp_path / "model.gguf").code == 0
    done = hybrid("models", "restore", "model", "--to", tmp_path / "restored")
    assert (tmp_path / "restored" / "model.gguf").read_bytes() == model, done.stderr
    for refused in (
        ["run", "local", "seal-eval", "--backend=scripted", "--model=x"],
        ["models", "prune", "--unused"],
    ):
        done = hybrid(*refused)
        assert done.code == 2, done.stderr
        assert f"{URL} is in a store, where no" in done.stderr
    small.fault = lambda method, path: (403, f"<Code>InvalidAccessKeyId</Code>{KEY_ID}".encode())
    done = hybrid("fetch", "seal")
    assert done.code == 7
    assert f"{URL}/hybrid.json: no permission (InvalidAccessKeyId)" in done.stderr
    assert KEY_ID not in done.stderr
