"""Draw formulas as SVG when the site is built. Pages need no script and no special font."""

import html
import re
from typing import Any

import ziamath

# What pymdownx.arithmatex leaves of $...$ and of $$...$$.
INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
BLOCK = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.DOTALL)
EM = 16.0  # a drawing is made for a text of this size, and grows with the text it stands in
HEAD = re.compile(r'<svg [^>]*?width="[^"]+" height="[^"]+" viewBox="(\S+) (\S+) (\S+) (\S+)">')

ziamath.config.svg2 = (
    False  # every glyph where it stands: symbols would share their ids with those of the page's other formulas
)


def on_page_content(content: str, **_: Any) -> str:
    """mkdocs: a page's HTML."""
    content = BLOCK.sub(lambda found: f'<div class="formula">{drawing(found[1], inline=False)}</div>', content)
    return INLINE.sub(lambda found: drawing(found[1], inline=True), content)


def drawing(escaped: str, inline: bool) -> str:
    """The SVG of a formula (LaTeX, as it stands in HTML), on the text's baseline and in its colour."""
    latex = html.unescape(escaped).strip()
    svg = ziamath.Latex(latex, size=EM, color="currentColor", inline=inline).svg()
    box = HEAD.match(svg)
    assert box is not None, svg[:200]
    top, width, height = (float(box[number]) for number in (2, 3, 4))
    style = f"width:{width / EM:.3f}em;height:{height / EM:.3f}em;vertical-align:{-(top + height) / EM:.3f}em"
    label = html.escape(latex, quote=True)
    return f'<svg class="math" role="img" aria-label="{label}" style="{style}" viewBox="{" ".join(box.groups())}">{svg[box.end() :]}'
