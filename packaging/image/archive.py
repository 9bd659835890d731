#!/usr/bin/env python3
"""Writes the image as an archive for `podman load` and `docker load`: archive.py ROOTFS MACHINE VERSION OUTPUT

Invariant: the same files give the same bytes. Times are SOURCE_DATE_EPOCH, owners are root but for /cache, names are sorted.

The format is Docker's (image specification v1.2, "Combined Image JSON + Filesystem Changeset Format"), since OCI's own
configuration has no health check. `skopeo copy docker-archive:FILE oci:FOLDER` makes an OCI image of it.
"""

import hashlib
import io
import json
import os
import sys
import tarfile
from datetime import datetime, timezone
from pathlib import Path

USER = 65532
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
EPOCH = int(os.environ["SOURCE_DATE_EPOCH"])


def settle(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Gives an entry its owner and the commit's time."""
    entry.uid = entry.gid = USER if entry.name == "cache" else 0
    entry.uname = entry.gname = ""
    entry.mtime = EPOCH
    return entry


def layer(rootfs: Path) -> bytes:
    """The one layer: all files of the image."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for path in sorted(rootfs.rglob("*")):
            tar.add(path, arcname=str(path.relative_to(rootfs)), recursive=False, filter=settle)
    return written.getvalue()


def main(rootfs: Path, machine: str, version: str, output: Path) -> None:
    files = layer(rootfs)
    layer_digest = hashlib.sha256(files).hexdigest()
    created = datetime.fromtimestamp(EPOCH, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    config = json.loads((Path(__file__).parent / "config.json").read_text())
    config["Labels"] = {
        "org.opencontainers.image.title": "reward-sidecar",
        "org.opencontainers.image.version": version,
        "org.opencontainers.image.revision": os.environ["REWARD_SIDECAR_COMMIT"],
        "org.opencontainers.image.licenses": "Apache-2.0",
    }
    image = {
        "architecture": ARCHITECTURES[machine],
        "os": "linux",
        "created": created,
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer_digest}"]},
        "history": [{"created": created, "created_by": "packaging/image/archive.py"}],
    }
    image_text = json.dumps(image, sort_keys=True).encode()
    image_name = f"{hashlib.sha256(image_text).hexdigest()}.json"
    layer_name = f"{layer_digest}.tar"
    manifest = [{"Config": image_name, "RepoTags": [f"localhost/reward-sidecar:{version}"], "Layers": [layer_name]}]
    contents = {image_name: image_text, layer_name: files, "manifest.json": json.dumps(manifest).encode()}
    with tarfile.open(output, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in sorted(contents.items()):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(settle(entry), io.BytesIO(content))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], Path(sys.argv[4]))
