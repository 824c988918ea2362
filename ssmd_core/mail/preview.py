"""A mail as files, to look at before it is sent."""

from __future__ import annotations

import base64
from pathlib import Path

from ssmd_core.errors import ConfigError
from ssmd_core.mail.render import Mail


def write_preview(mail: Mail, path: Path) -> Path:
    """Write the HTML as one file that needs no other (its pictures are in it), and the plain text beside it as `.txt`.

    Returns:
        The plain text's file.

    Raises:
        ConfigError: `path` is itself a `.txt`.
        OSError: one of them cannot be written.
    """
    beside = path.with_suffix(".txt")
    if beside == path:
        raise ConfigError(f"{path}: the page cannot be a .txt, for the plain text is written there")
    html = mail.html
    for image in mail.images:
        data = base64.b64encode(image.png).decode()
        html = html.replace(f'src="cid:{image.cid}"', f'src="data:image/png;base64,{data}"')
    path.write_text(html, encoding="utf-8")
    beside.write_text(mail.text, encoding="utf-8")
    return beside
