"""What others have published and what the project asked of itself, each figure with where it was said."""

import pathlib

from measured import Row, read_table
from read import UserError

REFERENCE = pathlib.Path(__file__).resolve().parent / "reference"


class Reference:
    """What others have published, with where it was said."""

    def __init__(self, folder: pathlib.Path = REFERENCE):
        def rows(name: str, *columns: str) -> list[Row]:
            found = [Row(f"reference/{r.where}", r.fields) for r in read_table(folder / name, (*columns, "source"))]
            for row in found:
                if not row.text("source"):
                    raise UserError(f"{folder / name}: {row.where}: has no source; a figure without one is not shown")
            return found

        self.original = rows("original.csv", "quantity", "precision", "strategy", "gpus", "value")
        self.peers = rows(
            "peers.csv",
            "system",
            "precision",
            "device",
            "mode",
            "adapter_rank",
            "batch",
            "sample_tokens",
            "lengths",
            "strategy",
            "gpus",
            "tokens_per_s",
            "memory_gb",
        )
        self.goals = {(r.text("goal"), r.text("precision")): r for r in rows("goals.csv", "goal", "precision", "value")}
        self.devices = rows("devices.csv", "device", "power_w", "memory_gb")

    def published(self, quantity: str, precision: str = "", strategy: str = "", gpus: int | None = None) -> Row | None:
        for row in self.original:
            if (
                row.text("quantity") == quantity
                and row.text("precision") == precision
                and row.text("strategy") == strategy
            ):
                if gpus is None or row["gpus"] == gpus:
                    return row
        return None

    def device(self, name: str) -> Row | None:
        return next((row for row in self.devices if row.text("device") in name), None)
