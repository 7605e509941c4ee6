"""Puts what `results/` has into docs/performance.md, between two comments; `--check` only says whether it is there."""

import argparse
import sys
from pathlib import Path

from rig import HERE, IMAGES, RESULTS

PAGE = HERE.parent / "docs" / "performance.md"
BEGIN, END = "<!-- figures: benchmarks -->", "<!-- end of figures -->"
PARTS = {
    "grid": ("Transitions", "benchmarks.png", "Times of BlackJAX and ebmkit over ours, for each cell"),
    "compilation": ("Compiling", None, ""),
    "posteriors": ("Effective samples", None, ""),
    "training": ("Training", None, ""),
    "growth": ("Growth", "growth.png", "Time against steps, chains and dimensions, and a line of slope 1"),
    "accelerator": ("On an accelerator", None, ""),
}
"""Headings and pictures, by the name of the result, in the order of the page."""


def figures(results: Path = RESULTS, images: Path = IMAGES) -> str:
    """All that there is, as Markdown."""
    parts = []
    for name, (heading, picture, alternative) in PARTS.items():
        text = results / f"{name}.md"
        if text.exists():
            parts += [f"### {heading}", text.read_text().strip()]
            if picture is not None and (images / picture).exists():
                parts.append(f"![{alternative}](images/{picture})")
    return "\n\n".join(parts)


def filled(page: str, inside: str) -> str:
    """The page with `inside` between the two comments."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page must have {BEGIN} and {END}, in this order: figures go between them.")
    return f"{before}{BEGIN}\n\n{inside}\n\n{END}{after}" if inside else f"{before}{BEGIN}\n{END}{after}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    page = PAGE.read_text()
    wanted = filled(page, figures())
    if parser.parse_args().check:
        return 0 if page == wanted else 1
    PAGE.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main())
