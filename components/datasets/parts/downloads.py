"""Published files of a data set: taken from the user's folder or downloaded, and read only if the checksum is right."""

import hashlib
from http.client import HTTPException
from pathlib import Path

from components.foundation.errors import InputError
from components.foundation.storage import replacing, require_bytes


def read_verified(path: Path, md5: str) -> bytes:
    """The bytes of a file whose MD5 is `md5`. Errors: missing or unreadable file, wrong checksum."""
    try:
        require_bytes(path)
        return verified(path.read_bytes(), md5, path)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None


def verified(data: bytes, md5: str, name: Path | str) -> bytes:
    """`data`, after comparing its MD5 with the published one."""
    actual = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if actual != md5:
        raise InputError(f"{name}: wrong checksum, MD5 {actual}, want {md5} (delete the file to have it fetched again)")
    return data


def fetch(url: str, path: Path, md5: str, instead: str) -> None:
    """Downloads `url` to `path`, whole and verified, or leaves nothing there.

    Args:
        url: the publisher's address, as torchvision knows it.
        path: where the file goes.
        md5: the published checksum.
        instead: which files the user can put where, for the message.
    """
    # torchvision takes seconds to import, which only those who use it should pay.
    from torchvision.datasets.utils import download_url

    try:
        with replacing(path) as partial:
            download_url(url, partial.parent, partial.name, md5)
    except (OSError, RuntimeError, HTTPException) as error:
        reason = " ".join(str(error).split())
        missing = f"{path}: not there, and not downloaded ({reason})"
        raise InputError(f"{missing}; put {instead}, or let TEMPER_DATA name the folder that has it") from None
