#!/bin/bash
# `rclone serve s3` (rclone 1.71.2) as obstore 0.12.1, an S3 client, sees it: a file is written with `mode="create"`, which
# sends `If-None-Match: *`, under a name that is taken. S3 documents 412 (Precondition Failed) for it.
# Expected: AlreadyExistsError, and the first content stays. Seen: no error; the second content replaces the first in silence,
# so two writers that rely on a conditional write both believe that they were first.
# Exits 0 while it behaves so, 1 when it does not any more.
set -euo pipefail
work="$(mktemp -d)"
server=""
trap '[ -z "$server" ] || kill "$server"; chmod -R u+w "$work"; rm -rf "$work"' EXIT
cd "$work"
GOPATH="$work/go" GOFLAGS=-modcacherw go install github.com/rclone/rclone@v1.71.2
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check obstore==0.12.1
mkdir -p data/bucket
touch rclone.conf
port="$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')"
go/bin/rclone serve s3 --addr "127.0.0.1:$port" --auth-key some-id,some-secret --config rclone.conf data 2>log &
server=$!
for _ in $(seq 100); do grep -q "Starting s3 server" log && break; sleep 0.1; done
go/bin/rclone version --config rclone.conf >version
head -1 version
env/bin/python - "$port" <<'P'
import sys
from importlib.metadata import version

import obstore
from obstore.store import S3Store

store = S3Store(
    "bucket",
    endpoint=f"http://127.0.0.1:{sys.argv[1]}",
    access_key_id="some-id",
    secret_access_key="some-secret",
    region="us-east-1",
    client_options={"allow_http": True},
)
obstore.put(store, "name", b"first", mode="create")
try:
    obstore.put(store, "name", b"second", mode="create")
    refused = False
except obstore.exceptions.AlreadyExistsError:
    refused = True
content = bytes(obstore.get(store, "name").bytes())
print(f"obstore {version('obstore')}: the second write was {'refused' if refused else 'taken'}; the content is {content!r}")
sys.exit(0 if not refused and content == b"second" else 1)
P
