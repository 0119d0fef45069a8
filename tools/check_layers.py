"""Holds every #include of the project to the direction that cmake/layers.cmake declares: a layer sees what it depends on."""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent


def allowed_layers():
    text = (ROOT / "cmake/layers.cmake").read_text()
    direct = {}
    for name, rest in re.findall(r"^llmft_layer\((\w+)\s*([^)]*)\)", text, re.M):
        depends = re.search(r"DEPENDS ([\w ]+?)(?: LIBRARIES|$)", rest)
        direct[name] = depends.group(1).split() if depends else []
    seen = {}
    for name in direct:  # declared low to high
        seen[name] = {name}.union(*(seen[d] for d in direct[name]))
    return seen


def main():
    allowed = allowed_layers()
    bad = []
    count = 0
    for path in sorted([*ROOT.glob("src/*/**/*.?pp"), *ROOT.glob("include/llmft/*/**/*.hpp"), *ROOT.glob("src/*/**/*.cu*")]):
        parts = path.relative_to(ROOT).parts
        layer = parts[1] if parts[0] == "src" else parts[2]
        for number, line in enumerate(path.read_text().splitlines(), 1):
            match = re.match(r'#include "llmft/(\w+)/', line)
            if match:
                count += 1
                if match.group(1) not in allowed[layer]:
                    bad.append(f"{path.relative_to(ROOT)}:{number}: layer {layer} must not include {match.group(1)}")
    print("\n".join(bad) if bad else f"check_layers: {count} includes, none upward")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
