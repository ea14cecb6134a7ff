"""Which training results exist at paper scale: the first sentence of README's results and of the report."""

from pathlib import Path

TIMES_AND_SIZES = "table_i"  # Tables I.1 to I.3


def paper_scale_sentence(root: Path) -> str:
    """Return the sentence, from the folders of results/paper in `root`, the folder results/."""
    names = sorted(
        path.parent.name
        for path in (root / "paper").glob("*/table.md")
        if not path.parent.name.startswith(TIMES_AND_SIZES)
    )
    if not names:
        return "At paper scale, no training result exists yet: only step times have been measured."
    return f"At paper scale, these have training results: {', '.join(names)}."
