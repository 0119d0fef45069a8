"""The report as one HTML file that needs nothing else: styles and figures inline, light and dark, print and phone."""

import html
import pathlib
import re

from document import (
    NOT_MEASURED,
    Code,
    Gallery,
    Heading,
    Name,
    Note,
    Num,
    Paragraph,
    Picture,
    Points,
    Table,
    Text,
    Tiles,
    plain,
)

STYLE = """
:root{--paper:#fff;--ink:#1c1e21;--faint:#5d6470;--grid:#d9dce1;--soft:#f3f5f8;--accent:#0b63a5;--bad:#a31515;--badsoft:#fdeeee;--warm:#8a5a00}
@media (prefers-color-scheme:dark){:root{--paper:#15181d;--ink:#e6e8eb;--faint:#a3abb8;--grid:#343b46;--soft:#1e232b;--accent:#7cc0f5;--bad:#ff9a94;--badsoft:#3a1e20;--warm:#e6b455}}
:root[data-theme=light]{--paper:#fff;--ink:#1c1e21;--faint:#5d6470;--grid:#d9dce1;--soft:#f3f5f8;--accent:#0b63a5;--bad:#a31515;--badsoft:#fdeeee;--warm:#8a5a00}
:root[data-theme=dark]{--paper:#15181d;--ink:#e6e8eb;--faint:#a3abb8;--grid:#343b46;--soft:#1e232b;--accent:#7cc0f5;--bad:#ff9a94;--badsoft:#3a1e20;--warm:#e6b455}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 Georgia,"Iowan Old Style","Source Serif 4","DejaVu Serif",serif}
h1,h2,h3,h4,th,td,nav,figcaption,caption,.tiles,.note,button{font-family:"Segoe UI",Roboto,"Helvetica Neue",Arial,"DejaVu Sans",sans-serif}
a{color:var(--accent)}
data{font-variant-numeric:tabular-nums}
.nm{color:var(--faint);font-style:italic}
code{font:0.88em/1.4 ui-monospace,Menlo,Consolas,"DejaVu Sans Mono",monospace;background:var(--soft);padding:.05em .3em;border-radius:3px}
pre{background:var(--soft);padding:.8em 1em;overflow-x:auto;border-radius:6px}pre code{background:none;padding:0}
"""

_PAGE = """
main{max-width:1080px;margin:0 auto;padding:1.6rem 1.4rem 5rem}
main>p,main>ul{max-width:46rem}main>nav+p{max-width:none}
h1{font-size:1.75rem;line-height:1.2;margin:.2rem 0 .4rem;letter-spacing:-.01em}
h2{font-size:1.3rem;margin:2.6rem 0 .5rem;padding-top:.5rem;border-top:1px solid var(--grid)}
h3{font-size:1.03rem;margin:1.8rem 0 .3rem}
p{margin:.55rem 0}
ul{margin:.4rem 0;padding-left:1.25rem}li{margin:.3rem 0}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(260px,1fr));gap:.7rem;margin:1rem 0}
.tiles div{background:var(--soft);border-radius:8px;padding:.65rem .85rem}
.tiles b{display:block;font-size:1.4rem;font-weight:650;letter-spacing:-.01em}
.tiles span{font-size:.84rem;line-height:1.35;color:var(--faint);display:block}.tiles b span.nm{font-size:1.05rem;display:inline}
.table{overflow-x:auto;margin:1rem 0 1.3rem}
table{border-collapse:collapse;font-size:.86rem;line-height:1.35;min-width:min(100%,30rem)}
caption{caption-side:bottom;text-align:left;color:var(--faint);font-size:.82rem;padding:.5rem 0 0;max-width:62rem}
th,td{padding:.32rem .65rem;text-align:right;border-bottom:1px solid var(--grid);vertical-align:top}
th{font-weight:600;vertical-align:bottom;border-bottom:1.5px solid var(--faint);max-width:9.5rem}
th.l,td.l{text-align:left}td.l{min-width:6rem}td.s{font-weight:650}
td .nm{white-space:nowrap}td:not(.l) data{white-space:nowrap}
figure{margin:1.1rem 0 1.5rem}figure svg{width:100%;height:auto;max-width:860px;display:block}figure.wide svg{max-width:1040px}
.gallery{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr));gap:0 1.2rem}.gallery figure{margin:.4rem 0 .8rem}
figcaption{font-size:.84rem;color:var(--faint);max-width:52rem}
.note{border-left:4px solid var(--grid);background:var(--soft);padding:.6rem .95rem;margin:1rem 0;border-radius:0 6px 6px 0;font-size:.92rem;max-width:62rem}
.note.bad{border-color:var(--bad);background:var(--badsoft)}.note.bad>b{color:var(--bad)}
nav{font-size:.86rem;color:var(--faint);margin:.3rem 0 .8rem}nav a{margin-right:.9em;white-space:nowrap}
button.theme{position:fixed;right:.8rem;top:.7rem;border:1px solid var(--grid);background:var(--paper);color:var(--faint);border-radius:6px;padding:.2rem .55rem;font-size:.8rem;cursor:pointer}
@media print{.gallery{grid-template-columns:1fr 1fr}figure svg{max-height:105mm;width:auto;max-width:100%}button.theme,nav{display:none}main{padding:0;max-width:none}h2,h3{break-after:avoid}figure,tr,.note,.tiles{break-inside:avoid}body{font-size:10.5pt}.table{overflow:visible}table{font-size:7.8pt}th,td{padding:.2rem .35rem}td .nm{white-space:normal}@page{size:A4;margin:16mm 15mm}}
"""

_THEME = """
<button class="theme" type="button" aria-label="light or dark">light / dark</button>
<script>
document.querySelector('button.theme').onclick=function(){
  var r=document.documentElement,d=r.dataset.theme||(matchMedia('(prefers-color-scheme: dark)').matches?'dark':'light');
  r.dataset.theme=d==='dark'?'light':'dark'};
addEventListener('beforeprint',function(){document.documentElement.dataset.theme='light'});
</script>
"""


def inline(text: str) -> str:
    """`code`, **strong** and [words](address) of a template."""
    text = html.escape(text, quote=False)
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", text)
    text = re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", text)
    return re.sub(r"\[([^\]]+)\]\(([^)]+)\)", r'<a href="\2">\1</a>', text)


def span(text: Text) -> str:
    out = ""
    for part in text:
        match part:
            case Num(shown, _) if shown == NOT_MEASURED:
                out += f'<span class="nm">{NOT_MEASURED}</span>'
            case Num(shown, source):
                out += f'<data value="{html.escape(shown)}" title="{html.escape(source)}">{html.escape(shown)}</data>'
            case Name(shown):
                out += html.escape(shown, quote=False)
            case _:
                out += "\0" + part + "\0"
    # marks may stand around a number: inline() sees whole stretches, with numbers held aside
    held: list[str] = []

    def hold(match: re.Match) -> str:
        held.append(match[0])
        return f"\1{len(held) - 1}\1"

    pieces = re.split(r"\0", out)
    text = "".join(piece if i % 2 else re.sub(r"(?s).+", hold, piece) for i, piece in enumerate(pieces))
    return re.sub("\1(\\d+)\1", lambda m: held[int(m[1])], inline(text))


def table(of: Table) -> str:
    def cell(tag: str, i: int, text: Text) -> str:
        kind = " ".join(
            (["l"] if i < of.left or i in of.words else []) + (["s"] if i in of.strong and tag == "td" else [])
        )
        return f"<{tag}{f' class={chr(34)}{kind}{chr(34)}' if kind else ''}>{span(text)}</{tag}>"

    line = lambda tag, cells: "<tr>" + "".join(cell(tag, i, c) for i, c in enumerate(cells)) + "</tr>"  # noqa: E731
    body = "\n".join(line("td", row) for row in of.rows)
    return (
        f'<div class="table"><table><caption>{span(of.caption)}</caption>\n<thead>{line("th", of.head)}</thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


_COLOURS = {"#222222": "var(--ink)", "#666666": "var(--faint)", "#dddddd": "var(--grid)", "#ffffff": "var(--paper)"}


def svg(path: pathlib.Path, alt: str) -> str:
    """A figure to stand in the page: its ids made its own, its grey tones those of the page."""
    text = path.read_text(encoding="utf-8")
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    name = path.stem
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{name}-", text)
    for colour, variable in _COLOURS.items():
        text = text.replace(f": {colour}", f": {variable}")
    text = re.sub(r"\.\d{4,}", lambda m: m[0][:4], text)
    text = re.sub(r' (?:width|height)="[\d.]+pt"', "", text, count=2)
    text = text.replace("'DejaVu Sans'", "'DejaVu Sans','Segoe UI',Arial").replace(
        "<text ", '<text fill="currentColor" '
    )
    return text.replace("<svg ", f'<svg role="img" aria-label="{html.escape(alt)}" ', 1)


def block(of, figures: pathlib.Path) -> str:
    match of:
        case Heading(level, text, anchor):
            return f'<h{level} id="{anchor}">{span(text)}</h{level}>'
        case Paragraph(text):
            return f"<p>{span(text)}</p>"
        case Points(items):
            return "<ul>\n" + "\n".join(f"<li>{span(item)}</li>" for item in items) + "\n</ul>"
        case Table():
            return table(of)
        case Picture(name, alt, caption):
            drawn = svg(figures / f"{name}.svg", alt)
            box = re.search(r'viewBox="0 0 ([\d.]+)', drawn)
            wide = ' class="wide"' if box and float(box[1]) > 700 else ""
            return f"<figure{wide}>{drawn}<figcaption>{span(caption)}</figcaption></figure>"
        case Gallery(pictures):
            return '<div class="gallery">' + "\n".join(block(picture, figures) for picture in pictures) + "</div>"
        case Code(text):
            return f"<pre><code>{html.escape(text.rstrip(), quote=False)}</code></pre>"
        case Note(kind, title, items):
            mark = "Failed: " if kind == "bad" else ""
            points = "<ul>" + "".join(f"<li>{span(item)}</li>" for item in items) + "</ul>" if items else ""
            return f'<div class="note {kind}"><b>{mark}{span(title)}</b>{points}</div>'
        case Tiles(items):
            return (
                '<div class="tiles">'
                + "".join(f"<div><b>{span(a)}</b><span>{span(b)}</span></div>" for a, b in items)
                + "</div>"
            )
    raise TypeError(of)


def head(title: str, style: str) -> str:
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}{style}</style>\n</head>\n"
    )


def page(blocks: list, figures: pathlib.Path) -> str:
    title = next(plain(b.text) for b in blocks if isinstance(b, Heading))
    parts = [block(b, figures) for b in blocks]
    links = [
        f'<a href="#{b.anchor}">{html.escape(plain(b.text))}</a>'
        for b in blocks
        if isinstance(b, Heading) and b.level == 2
    ]
    first = next(i for i, b in enumerate(blocks) if isinstance(b, Heading) and b.level == 1)
    parts.insert(first + 1, f"<nav>{' '.join(links)}</nav>")
    return head(title, _PAGE) + f"<body>\n{_THEME}<main>\n" + "\n".join(parts) + "\n</main>\n</body>\n</html>\n"
