"""What the page unpacks in the browser: base64 of gzip of text or JSON, which can't close a script element."""

import base64
import gzip
import json
from typing import Any

from markupsafe import Markup


def packed(content: Any) -> Markup:
    """Return text, or what JSON can hold, for a script element. The same content gives the same text."""
    text = content if isinstance(content, str) else json.dumps(content, separators=(",", ":"), allow_nan=False)
    return Markup(base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode())


def unpacked(text: str) -> Any:
    """Return the content of `packed` JSON, as the page reads it."""
    return json.loads(gzip.decompress(base64.b64decode(text)))
