"""HTML that is safe by construction: whatever is not markup yet is escaped."""

import html
from collections.abc import Iterable, Sequence
from string import Template

__all__ = ["Markup", "code_block", "document", "escape", "tag", "tally"]

VOID = ("img", "meta")  # elements without an end


class Markup(str):
    """A piece of HTML; any other string is text, and is escaped when it is put into one."""


def escape(value: object) -> Markup:
    """Markup as it is, and everything else as text.

    Example:
        >>> escape("<b>"), escape(tag("b", "1 < 2"))
        ('&lt;b&gt;', '<b>1 &lt; 2</b>')
    """
    return value if isinstance(value, Markup) else Markup(html.escape(str(value)))


def tag(name: str, *children: object, **attributes: object) -> Markup:
    """An element with its children; attributes end in `_` where Python has taken the name.

    Example:
        >>> tag("p", "a & ", tag("em", "b"), class_="note")
        '<p class="note">a &amp; <em>b</em></p>'
    """
    start = "".join(f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"' for key, value in attributes.items())
    if name in VOID:
        return Markup(f"<{name}{start}>")
    return Markup(f"<{name}{start}>{''.join(map(escape, children))}</{name}>")


def tally(caption: str, header: Sequence[object], rows: Iterable[Sequence[object]]) -> Markup:
    """A table with a caption and header cells for its columns and rows, which scrolls sideways where it is too wide."""
    head = tag("tr", *(tag("th", cell, scope="col") for cell in header))
    body = [tag("tr", tag("th", first, scope="row"), *(tag("td", cell) for cell in rest)) for first, *rest in rows]
    table = tag("table", tag("caption", caption), tag("thead", head), tag("tbody", *body))
    return tag("div", table, class_="wide", tabindex="0", role="region", aria_label=caption)


def code_block(code: str, label: str) -> Markup:
    """Lines to copy."""
    return tag("pre", tag("code", code), class_="wide", tabindex="0", aria_label=label)


def document(title: str, body: Iterable[Markup]) -> str:
    """A whole page that needs nothing but itself; its policy forbids the browser to fetch anything."""
    return PAGE.substitute(title=escape(title), style=STYLE, body="\n".join(body))


PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<style>$style</style>
</head>
<body>
<main>
$body
</main>
</body>
</html>
""")

STYLE = """
:root { --ink: #20242c; --soft: #5f6670; --paper: #fff; --line: #dfe3e8; --tint: #f4f6f8; --alert: #9a4b00;
  --alert-tint: #fff4e8; --samples: #d55e00; --data: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --soft: #a3abb5; --paper: #15181d; --line: #343a43;
  --tint: #1e2229; --alert: #ffb366; --alert-tint: #33240f; --samples: #f08040; --data: #56b4e9; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 66rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .6rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .6rem; padding-top: .9rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.6rem 0 .4rem; }
p { max-width: 46rem; margin: .5rem 0; overflow-wrap: anywhere; }
.lead { font-size: 1.1rem; }
.soft, figcaption, small { color: var(--soft); }
.alert { border-left: 4px solid var(--alert); background: var(--alert-tint); padding: .7rem 1rem; margin: 1rem 0;
  max-width: 48rem; border-radius: 0 6px 6px 0; }
.alert ul { margin: .3rem 0 0; padding-left: 1.2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: .6rem 0; font-variant-numeric: tabular-nums; font-size: .95rem; }
caption { text-align: left; color: var(--soft); padding-bottom: .3rem; }
th, td { padding: .3rem .9rem .3rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
thead th { font-weight: 600; vertical-align: bottom; }
tbody th { font-weight: 400; }
tbody th small { display: block; max-width: 34rem; }
td strong::after { content: " \\2713"; color: var(--data); }
.long { overflow-wrap: anywhere; }
.bar { position: relative; display: block; height: .8rem; margin: .35rem 0; width: min(24rem, 34vw); }
.bar i { position: absolute; left: 0; top: 0; bottom: 0; background: var(--samples); }
.bar b { position: absolute; top: -.2rem; bottom: -.2rem; width: 3px; margin-left: -1px; background: var(--data); }
.gallery { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 18rem), 1fr)); }
.gallery.large { grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); }
figure { margin: .6rem 0 0; break-inside: avoid; min-width: 0; }
figure img { display: block; width: 100%; height: auto; background: #fff; border-radius: 6px; }
figure.single { max-width: 46rem; }
.settings { display: grid; gap: 0 3rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr)); }
.settings table { width: 100%; }
figcaption { font-size: .9rem; padding-top: .25rem; overflow-wrap: anywhere; }
figcaption strong { color: var(--ink); font-weight: 600; }
pre { background: var(--tint); border: 1px solid var(--line); border-radius: 6px; padding: .7rem .9rem;
  font-size: .88rem; line-height: 1.45; }
code { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "Liberation Mono", monospace; }
@media print { body { font-size: 10.5pt; } main { max-width: none; padding: 0; } h2, h3 { break-after: avoid; }
  tr, .alert { break-inside: avoid; } pre { white-space: pre-wrap; } .bar * { print-color-adjust: exact; }
  .gallery { grid-template-columns: repeat(3, 1fr); }
  .gallery.large, .settings { grid-template-columns: repeat(2, 1fr); } }
"""
