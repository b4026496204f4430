"""The tables as files: CSV that spreadsheets read, Parquet where pyarrow is installed, and the data dictionary."""

import importlib.util
from pathlib import Path
from typing import Any

from autoslim import tables
from autoslim.reporting import ablation, dictionary
from autoslim.reporting.context import Material

#: a text that starts so would be run as a formula by a spreadsheet
FORMULA = ("=", "+", "-", "@", "\t", "\r")
#: most characters of a cell of Excel; longer texts would run over into other cells
LONGEST, ENDING = 32_767, "... (shortened)"
KINDS = {"text": "string", "integer": "Int64", "number": "float64", "boolean": "boolean"}


def frames(material: Material) -> dict[str, Any]:
    """{table: pandas frame}; ablation where one was measured."""
    found = {
        "front": tables.frame(material.rows, tables.FRONT_COLUMNS),
        "trials": tables.frame(material.trials, tables.TRIAL_COLUMNS),
    }
    taken = ablation.rows(material)
    return found | ({"ablation": tables.frame(taken, ablation.COLUMNS)} if taken else {})


def write_tables(material: Material, out: Path) -> None:
    """front, trials, ablation and dictionary below ``out``; the same study gives the same bytes."""
    found = frames(material)
    for name, frame in found.items():
        to_csv(defused(whole(name, frame)), out / f"{name}.csv")
        if importlib.util.find_spec("pyarrow"):
            typed(name, frame).to_parquet(out / f"{name}.parquet", index=False)
    to_csv(dictionary_frame(found), out / "dictionary.csv")


def to_csv(frame: Any, path: Path) -> None:
    frame.to_csv(path, index=False, lineterminator="\n")


def defused(frame: Any) -> Any:
    """The frame with texts that a spreadsheet would run as formulas behind an apostrophe, and none longer than its cells."""

    def harmless(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        text = f"'{value}" if value.startswith(FORMULA) else value
        return text if len(text) <= LONGEST else text[: LONGEST - len(ENDING)] + ENDING

    texts = [name for name in frame.columns if frame[name].dtype == object or str(frame[name].dtype).startswith("str")]
    return frame.assign(**{name: frame[name].map(harmless) for name in texts})


def whole(table: str, frame: Any) -> Any:
    """The frame with the dictionary's integers as such, since an empty cell would make 1540 bytes 1540.0."""
    return frame.astype({name: "Int64" for name in frame.columns if dictionary.column(table, name).kind == "integer"})


def typed(table: str, frame: Any) -> Any:
    """The frame with the types of the dictionary, so that an empty column is of its type too."""
    kinds = {name: KINDS[dictionary.column(table, name).kind] for name in frame.columns}
    return frame.astype(kinds)


def dictionary_frame(found: dict[str, Any]) -> Any:
    """One row per column of each table."""
    import pandas as pd

    rows = [
        {"table": table, "column": name, **dictionary.column(table, name)._asdict()}
        for table, frame in found.items()
        for name in frame.columns
    ]
    return pd.DataFrame(rows, columns=["table", "column", "kind", "unit", "meaning"])
