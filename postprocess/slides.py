"""The slide deck: one file, a slide fills the window, arrow keys move, printing gives a page a slide."""

import pathlib

import page
from document import Heading, plain

_STYLE = """
html,body{height:100%;margin:0;overflow:hidden}
body{font-family:"Segoe UI",Roboto,"Helvetica Neue",Arial,"DejaVu Sans",sans-serif;font-size:calc(9px + .85vw)}
section{position:absolute;inset:0;display:none;flex-direction:column;justify-content:center;padding:4.5vh 6vw 7vh;gap:1.6vh;overflow:auto}
section.on{display:flex}
h1{font-size:3.2em;margin:0}h2{font-size:1.75em;margin:0;position:relative}
section>p{margin:0;max-width:62em}section.first p:first-of-type{font-size:1.5em;color:var(--faint)}
ul{margin:0;padding-left:1.2em}li{margin:.55em 0;line-height:1.4}
.tiles{display:grid;grid-template-columns:repeat(3,1fr);gap:1.2vw}
.tiles div{background:var(--soft);border-radius:10px;padding:1.6vh 1.4vw}.tiles b{display:block;font-size:1.75em}.tiles span{color:var(--faint);font-size:.86em}.tiles b .nm{font-size:.8em}
table{border-collapse:collapse;font-size:.82em;width:100%}th,td{padding:.38em .6em;text-align:right;border-bottom:1px solid var(--grid)}th{vertical-align:bottom;border-bottom:2px solid var(--faint)}
td .nm,td data{white-space:nowrap}th.l,td.l{text-align:left}td.s{font-weight:700}caption{caption-side:bottom;text-align:left;color:var(--faint);font-size:.9em;padding-top:.6em}
section.dense table{font-size:.66em}section.dense td,section.dense th{padding:.26em .5em}section.dense li{margin:.3em 0;font-size:.86em}
figure{margin:0;min-height:0;flex:0 1 auto;display:flex;flex-direction:column;align-items:center}figure svg{max-height:74vh;width:auto;max-width:100%;min-width:62%}figcaption{display:none}
section.both figure svg{max-height:54vh}
.note{border-left:5px solid var(--grid);background:var(--soft);padding:.7em 1em}.note.bad{border-color:var(--bad);background:var(--badsoft)}.note.bad>b{color:var(--bad)}
footer{position:fixed;right:1.4vw;bottom:1.4vh;color:var(--faint);font-size:.72em}
@page{size:13.333in 7.5in;margin:0}
@media print{html,body{overflow:visible;height:auto;font-size:13pt}section{position:relative;display:flex;width:13.333in;height:7.5in;break-after:page;overflow:hidden;padding:.45in .8in}section:last-of-type{break-after:auto}footer{display:none}figure svg{max-height:5.4in}section.both figure svg{max-height:4.3in}}
"""

_KEYS = """
<footer></footer>
<script>
(function(){
  var all=[].slice.call(document.querySelectorAll('section')),at=Math.max(0,(parseInt(location.hash.slice(1),10)||1)-1);
  function show(n){at=Math.min(all.length-1,Math.max(0,n));all.forEach(function(s,i){s.classList.toggle('on',i===at)});
    document.querySelector('footer').textContent=(at+1)+' / '+all.length;history.replaceState(null,'','#'+(at+1))}
  addEventListener('keydown',function(e){
    if(['ArrowRight','ArrowDown','PageDown',' ','Enter'].indexOf(e.key)>=0){show(at+1);e.preventDefault()}
    else if(['ArrowLeft','ArrowUp','PageUp','Backspace'].indexOf(e.key)>=0){show(at-1);e.preventDefault()}
    else if(e.key==='Home')show(0);else if(e.key==='End')show(all.length-1)});
  var x=null;addEventListener('touchstart',function(e){x=e.touches[0].clientX});
  addEventListener('touchend',function(e){var d=e.changedTouches[0].clientX-x;if(Math.abs(d)>40)show(at+(d<0?1:-1))});
  addEventListener('click',function(e){if(!e.target.closest('a'))show(at+(e.clientX<innerWidth/3?-1:1))});
  addEventListener('hashchange',function(){show((parseInt(location.hash.slice(1),10)||1)-1)});
  addEventListener('beforeprint',function(){document.documentElement.dataset.theme='light'});
  show(at)})();
</script>
"""


def _slide(blocks: list, figures: pathlib.Path, first: bool) -> str:
    kinds = {type(b).__name__ for b in blocks}
    rows = max((len(b.rows) for b in blocks if type(b).__name__ == "Table"), default=0)
    points = max((len(b.items) for b in blocks if type(b).__name__ == "Points"), default=0)
    names = ["first"] if first else []
    names += ["both"] if "Picture" in kinds and kinds & {"Points", "Paragraph"} else []
    names += ["dense"] if rows > 8 or points > 6 else []
    return f'<section class="{" ".join(names)}">\n' + "\n".join(page.block(b, figures) for b in blocks) + "\n</section>"


def slides(deck: list[list], figures: pathlib.Path) -> str:
    title = next(plain(b.text) for b in deck[0] if isinstance(b, Heading))
    body = "\n".join(_slide(blocks, figures, i == 0) for i, blocks in enumerate(deck))
    return page.head(f"{title}: slides", _STYLE) + f"<body>\n{body}\n{_KEYS}</body>\n</html>\n"
