"""Writes pages.parquet: two row groups of many small pages that do not line up between columns, dictionary
and plain encoding, nulls. Row i has question "question i", null in every 7th; response is i's digits repeated.

    python tests/data/make_fixtures.py
"""

import pathlib

import pyarrow as pa
import pyarrow.parquet as pq

ROWS = 3000


def main():
    rows = range(ROWS)
    table = pa.table({
        "response": pa.array([str(i) * (1 + i % 50) for i in rows], pa.large_string()),
        "id": pa.array([f"cot.{i}" for i in rows]),
        "extra": pa.array(rows),
        "question": pa.array([None if i % 7 == 0 else f"question {i}" for i in rows]),
        "system_prompt": pa.array([f"system {i % 5}" for i in rows]).dictionary_encode(),
    })
    pq.write_table(table, pathlib.Path(__file__).parent / "pages.parquet", row_group_size=2000, compression="zstd",
                   data_page_size=1, write_batch_size=64, use_dictionary=["system_prompt"])


if __name__ == "__main__":
    main()
