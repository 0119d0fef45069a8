"""A document of numbers that know where they come from, and its Markdown.

What the report says is made of templates and values: `say("DDP keeps {share} of it", share=percent(x, source))`.
A template may hold no figure of its own (names such as bf16 or H100 aside), so a number without a source cannot be
written; a value that is None reads "not measured".
"""

import dataclasses
import re
import string

NOT_MEASURED = "not measured"
# Names that have digits in them; nothing else in a template may.
NAMES = re.compile(
    r"Llama[ -]3(?:\.\d)?(?:-1B)?|\b(?:fp|tf|bf|f)\d{1,2}\b|\bfp8\b|\b[HA]\d{3}\b|ROUGE-[12L]|ZeRO-[23]|FSDP2|C\+\+20|UTF-8"
)


@dataclasses.dataclass(frozen=True)
class Num:
    """A figure as it is printed, and where it stands."""

    text: str
    source: str

    @property
    def known(self) -> bool:
        return self.text != NOT_MEASURED


MISSING = Num(NOT_MEASURED, "")


@dataclasses.dataclass(frozen=True)
class Name:
    """A name out of the tables: a device, a run, a version."""

    text: str


Part = str | Num | Name
Text = tuple[Part, ...]


class Unsourced(Exception):
    """A template with a figure of its own: a mistake in the report's code."""


def literal(text: str) -> str:
    if re.search(r"\d", NAMES.sub("", text)):
        raise Unsourced(f"a figure without a source in '{text}'")
    return text


def say(template: str, **values: "Part | Text | None") -> Text:
    parts: list[Part] = []
    for text, field, form, _ in string.Formatter().parse(template):
        if text:
            parts.append(literal(text))
        if field is None:
            continue
        value = values[field]
        if value is None:
            value = MISSING
        if isinstance(value, tuple):
            parts += value
        else:
            parts.append(literal(value) if isinstance(value, str) else value)
    return tuple(parts)


def text_of(value: "Part | Text | None") -> Text:
    return value if isinstance(value, tuple) else say("{it}", it=value)


def join(texts: list[Text], between: str = ", ", last: str = " and ") -> Text:
    parts: list[Part] = []
    for i, text in enumerate(texts):
        if i:
            parts.append(last if i == len(texts) - 1 else between)
        parts += text
    return tuple(parts)


def plain(text: Text) -> str:
    return "".join(part if isinstance(part, str) else part.text for part in text).replace("**", "").replace("`", "")


# --- numbers -----------------------------------------------------------------------------------------------------


def number(value: float | None, source: str, digits: int | None = None, unit: str = "", factor: float = 1) -> Num:
    """`digits` after the point; without it three significant figures, or all before the point."""
    if value is None:
        return MISSING
    value /= factor
    if digits is None:
        size = abs(value)
        digits = 0 if size >= 99.95 else 1 if size >= 9.995 else 2 if size >= 0.9995 else 3
        if 0 < size < 0.00995:
            return Num(f"{value:.2g}{unit}", source)
    return Num(f"{value:,.{digits}f}{unit}", source)


def percent(value: float | None, source: str, digits: int = 1) -> Num:
    return MISSING if value is None else Num(f"{100 * value:.{digits}f} %", source)


def times(value: float | None, source: str) -> Num:
    return MISSING if value is None else number(value, source, 1 if value >= 9.95 else 2, " ×")


def gigabytes(value: float | None, source: str) -> Num:
    """Published figures have one digit after the point, ours two."""
    digits = 1 if source.startswith("reference/") or (value or 0) >= 99.5e9 else 2
    return number(value, source, digits, " GB", 1e9)


def ratio(a: float | None, b: float | None) -> float | None:
    return a / b if a is not None and b else None


# --- blocks ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Heading:
    level: int
    text: Text
    anchor: str


@dataclasses.dataclass(frozen=True)
class Paragraph:
    text: Text


@dataclasses.dataclass(frozen=True)
class Points:
    items: list[Text]


@dataclasses.dataclass(frozen=True)
class Table:
    head: list[Text]
    rows: list[list[Text]]
    caption: Text
    left: int = 1  # first columns, of words; the rest are numbers, right-aligned
    words: tuple[int, ...] = ()  # further columns of words
    strong: tuple[int, ...] = ()  # columns to stress


@dataclasses.dataclass(frozen=True)
class Picture:
    name: str  # of its SVG file
    alt: str
    caption: Text


@dataclasses.dataclass(frozen=True)
class Gallery:
    """Pictures side by side."""

    pictures: list[Picture]


@dataclasses.dataclass(frozen=True)
class Code:
    text: str


@dataclasses.dataclass(frozen=True)
class Note:
    kind: str  # "bad", "good", "note"
    title: Text
    items: list[Text]


@dataclasses.dataclass(frozen=True)
class Tiles:
    """The results at a glance: (figure, what it is)."""

    items: list[tuple[Text, Text]]


Block = Heading | Paragraph | Points | Table | Picture | Gallery | Code | Note | Tiles


def heading(level: int, template: str, **values) -> Heading:
    text = say(template, **values)
    return Heading(level, text, re.sub(r"[^a-z0-9]+", "-", plain(text).lower()).strip("-"))


def table(
    head: list,
    rows: list[list],
    caption: Text,
    left: int = 1,
    strong: tuple[int, ...] = (),
    words: tuple[int, ...] = (),
) -> Table:
    return Table([text_of(c) for c in head], [[text_of(c) for c in row] for row in rows], caption, left, words, strong)


def numbered(blocks: list[Block]) -> list[Block]:
    """Tables and figures with their number before the caption."""
    counts = {Table: 0, Picture: 0}

    def number_of(block: Block) -> Block:
        if isinstance(block, Gallery):
            return Gallery([number_of(picture) for picture in block.pictures])
        if type(block) not in counts:
            return block
        counts[type(block)] += 1
        name = Name(f"{'Table' if isinstance(block, Table) else 'Figure'} {counts[type(block)]}.")
        return dataclasses.replace(block, caption=say("{name} ", name=name) + block.caption)

    return [number_of(block) for block in blocks]


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_")


def _md(text: Text) -> str:
    return "".join(part if isinstance(part, str) else _escaped(part.text) for part in text).replace("\n", " ")


def _md_table(of: Table) -> str:
    line = lambda cells: "| " + " | ".join(cells) + " |"  # noqa: E731
    cells = [[_md(c).replace("|", "\\|") if "\\|" not in _md(c) else _md(c) for c in row] for row in of.rows]
    rows = [
        [f"**{c}**" if i in of.strong and c and c != NOT_MEASURED else c for i, c in enumerate(row)] for row in cells
    ]
    rule = "|" + "|".join("---" if i < of.left or i in of.words else "---:" for i in range(len(of.head))) + "|"
    return "\n".join([line([_md(c) for c in of.head]), rule, *map(line, rows)]) + f"\n\n*{_md(of.caption)}*"


def _md_picture(of: Picture, figures: str) -> str:
    return f"![{of.alt}]({figures}/{of.name}.svg)\n\n*{_md(of.caption)}*"


def markdown(blocks: list[Block], figures: str) -> str:
    """`figures`: the folder of SVGs, as the Markdown file sees it."""
    out = []
    for block in blocks:
        match block:
            case Heading(level, text, _):
                out.append("#" * level + " " + _md(text))
            case Paragraph(text):
                out.append(_md(text))
            case Points(items):
                out.append("\n".join(f"- {_md(item)}" for item in items))
            case Table():
                out.append(_md_table(block))
            case Picture():
                out.append(_md_picture(block, figures))
            case Gallery(pictures):
                out += [_md_picture(picture, figures) for picture in pictures]
            case Code(text):
                out.append("```sh\n" + text.rstrip() + "\n```")
            case Note(kind, title, items):
                mark = {"bad": "**FAILED:** ", "good": "", "note": ""}[kind]
                out.append("\n".join([f"> {mark}{_md(title)}", *(f">\n> - {_md(item)}" for item in items)]))
            case Tiles(items):
                out.append("\n".join(f"- **{_md(figure)}**: {_md(what)}" for figure, what in items))
    return "\n\n".join(out) + "\n"
