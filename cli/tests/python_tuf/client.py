"""Reads a repository with python-tuf, and prints what it found as one line of JSON.

client.py REPOSITORY ROOT TARGET...: REPOSITORY is a directory, ROOT root metadata that is trusted. Each TARGET is looked up,
downloaded and checked.
"""

import hashlib
import json
import pathlib
import sys
import tempfile

from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient import FetcherInterface, Updater


class Directory(FetcherInterface):
    """A repository's directory in place of a server."""

    def __init__(self, path):
        self.path = pathlib.Path(path)

    def _fetch(self, url):
        path = self.path / url.removeprefix("dir://")
        if not path.is_file():
            raise DownloadHTTPError(f"there is no {path}", 404)
        return iter([path.read_bytes()])


def main(repository, root, *names):
    with tempfile.TemporaryDirectory() as scratch:
        updater = Updater(
            metadata_dir=f"{scratch}/metadata",
            metadata_base_url="dir://metadata",
            target_dir=scratch,
            target_base_url="dir://targets",
            fetcher=Directory(repository),
            bootstrap=pathlib.Path(root).read_bytes(),
        )
        updater.refresh()
        found = {}
        for name in names:
            info = updater.get_targetinfo(name)
            if info is None:
                found[name] = None
                continue
            path = updater.download_target(info)
            found[name] = hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()
        versions = {
            pathlib.Path(path).name.removesuffix(".json"): json.loads(pathlib.Path(path).read_text())["signed"]["version"]
            for path in pathlib.Path(f"{scratch}/metadata").glob("*.json")
        }
        print(json.dumps({"targets": found, "versions": versions}))


main(*sys.argv[1:])
