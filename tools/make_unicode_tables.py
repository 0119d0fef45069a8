#!/usr/bin/env python3
"""Write src/tokenizer/unicode_tables.cpp: which code points are \\p{L}, \\p{N} and \\s.

The classes are read out of tiktoken's own regex engine, code point by code point, because ids must equal
tiktoken's and every Unicode table has a version (tiktoken 0.14.0 knows letters that UnicodeData 15 lacks).

  make_unicode_tables.py            rewrite the file
  make_unicode_tables.py --check    exit 1 when the file differs from what the installed tiktoken gives

Needs: tiktoken (pinned to 0.14.0).
"""
import argparse
import pathlib
import sys

import tiktoken

OUTPUT = pathlib.Path(__file__).resolve().parent.parent / "src/tokenizer/unicode_tables.cpp"
CLASSES = (("kLetterRanges", r"\p{L}"), ("kNumberRanges", r"\p{N}"), ("kSpaceRanges", r"\s"))
PER_LINE = 6


def members(pattern: str) -> list[int]:
    """Code points that match pattern: tiktoken drops text that its split pattern does not match."""
    encoding = tiktoken.Encoding(
        "probe", pat_str=pattern, mergeable_ranks={bytes([b]): b for b in range(256)}, special_tokens={}
    )
    every = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    found: list[int] = []
    for i in range(0, len(every), 20000):
        kept = bytes(encoding.encode_ordinary("".join(every[i : i + 20000]))).decode()
        found += map(ord, kept)
    return found


def ranges(points: list[int]) -> list[tuple[int, int]]:
    out: list[list[int]] = []
    for p in points:
        if out and out[-1][1] == p - 1:
            out[-1][1] = p
        else:
            out.append([p, p])
    return [tuple(r) for r in out]


def render() -> str:
    lines = [
        f"// Written by tools/make_unicode_tables.py from tiktoken {tiktoken_version()}; not edited by hand.",
        '#include "llmft/tokenizer/unicode.hpp"',
        "",
        "// clang-format off",
        "namespace llmft {",
    ]
    for name, pattern in CLASSES:
        found = ranges(members(pattern))
        lines += ["", f"static const CodePointRange {name}_[] = {{  // {pattern}"]
        cells = [f"{{0x{a:X}, 0x{b:X}}}," for a, b in found]
        lines += ["    " + " ".join(cells[i : i + PER_LINE]) for i in range(0, len(cells), PER_LINE)]
        lines += ["};", f"const std::span<const CodePointRange> {name}{{{name}_}};"]
    return "\n".join(lines + ["", "}  // namespace llmft", ""])


def tiktoken_version() -> str:
    from importlib.metadata import version

    return version("tiktoken")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare, do not write")
    args = parser.parse_args()
    text = render()
    if args.check:
        if OUTPUT.read_text() != text:
            print(f"{OUTPUT}: differs from what tiktoken {tiktoken_version()} gives", file=sys.stderr)
            return 1
        return 0
    OUTPUT.write_text(text)
    print(f"wrote {OUTPUT}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
