"""For the site: a link to a file outside docs/, which the site does not hold, becomes the file's path."""

import re
from pathlib import Path
from typing import Any

LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(((?:\.\./)+[^)#\s]+)(?:#[^)]*)?\)")


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    """The page with `[text](../path)` as `text (path)`, where the path leads out of the folder of the pages."""
    root = Path(config["docs_dir"]).resolve()

    def named(link: re.Match[str]) -> str:
        target = (root / page.file.src_uri).parent.joinpath(link[2]).resolve()
        if target.is_relative_to(root):
            return link[0]
        path = target.relative_to(root.parent).as_posix()
        return link[1] if path in link[1] else f"{link[1]} (`{path}`)"

    return LINK.sub(named, markdown)
