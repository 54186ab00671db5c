"""Random tasks, exported again and again in any format: the tables are always as a simple model says."""

import csv
import io
import json
import random

import pytest

from aluma_async.destinations.sql.convert import FileFormat
from aluma_async.exceptions import SchemaMismatch
from tests.support.clock import real_time
from tests.support.databases import open_sql
from tests.support.tasks import deliver, make_claim

TABLES = "ab"
COLUMNS = ("k", "x", "y", "Z z")
CELLS = ("a", "", "\\N", "\\.", "x\ty", "l1\nl2", '"q"', "é", "''", "%s", "\\", "NULL", " s ", "0", "-", "\r", "{", ";")
ROW_KEY = "aluma_task TEXT, aluma_document BIGINT, aluma_file BIGINT, aluma_row BIGINT"
UNIQUE = "UNIQUE (aluma_task, aluma_document, aluma_file, aluma_row)"


class File:
    """A random file for one of the tables; ``fits`` is whether its rows can be stored."""

    def __init__(self, chance, *, has_key):
        self.table, self.format = chance.choice(TABLES), chance.choice(["csv", "json", "jsonl"])
        self.columns = ["k", *chance.sample(COLUMNS[1:], chance.randint(0, 3))]
        chance.shuffle(self.columns)
        size = chance.randint(0 if self.format == "csv" else 1, 5)
        self.rows = [[chance.choice(CELLS) for _ in self.columns] for _ in range(size)]
        for row in self.rows:
            row[self.columns.index("k")] = chance.choice("123456")
        self.fits = True
        if self.rows and chance.random() < 0.1:
            self.rows[-1][0] = "a\0"
            self.fits = False
        elif self.rows and has_key and chance.random() < 0.1:
            self.rows[-1][self.columns.index("k")] = ""
            self.fits = False
        self.text = self._render(chance)

    def _render(self, chance):
        if self.format == "csv":
            out = io.StringIO()
            quoting = chance.choice([csv.QUOTE_ALL, csv.QUOTE_MINIMAL])
            csv.writer(out, delimiter=";", quoting=quoting).writerows([self.columns, *self.rows])
            return chance.choice(["", "sep=;\n"]) + out.getvalue()
        objects = [dict(zip(self.columns, row, strict=True)) for row in self.rows]
        return json.dumps(objects) if self.format == "json" else "\n".join(map(json.dumps, objects))

    def cells(self):
        """Yield each row by column; an empty cell is no value."""
        for row in self.rows:
            yield {name: cell or None for name, cell in zip(self.columns, row, strict=True)}


def apply_task(model, task, files, *, has_key):
    """Return the rows of each table, by their key, after a task."""
    new = {table: dict(rows) for table, rows in model.items()}
    for table in {file.table for file in files} if not has_key else ():
        new[table] = {key: row for key, row in model[table].items() if key[0] != task}
    for number, file in enumerate(files):
        for row_number, cells in enumerate(file.cells(), 1):
            key = cells["k"] if has_key else (task, number, row_number)
            before = new[file.table].get(key) or dict.fromkeys(COLUMNS)
            new[file.table][key] = {**before, **cells} if has_key else {**dict.fromkeys(COLUMNS), **cells}
    return new


def stored(database, table, *, has_key):
    key = "k" if has_key else "aluma_task, aluma_file, aluma_row"
    rows = database.ask(f'SELECT k, x, y, "Z z", {key} FROM {table}')
    return {row[4] if has_key else row[4:]: dict(zip(COLUMNS, row, strict=False)) for row in rows}


@pytest.mark.parametrize("has_key", [True, False])
@pytest.mark.parametrize("seed", range(3))
@real_time
async def test_tables_are_as_the_model_says(database, seed, has_key):
    chance = random.Random(seed)
    columns = '(k TEXT PRIMARY KEY, x TEXT, y TEXT, "Z z" TEXT)'
    if not has_key:
        columns = f'(k TEXT, x TEXT, y TEXT, "Z z" TEXT, {ROW_KEY}, {UNIQUE})'
    for table in TABLES:
        database.ask(f"CREATE TABLE {table} {columns}")
    model = {table: {} for table in TABLES}
    options = {"key": ["k"] if has_key else [], "file_format": FileFormat(delimiter=";")}
    async with open_sql(database, "{stem}", **options) as destination:
        for _ in range(30):
            task = chance.choice(["t1", "t2", "t3"])
            files = [File(chance, has_key=has_key) for _ in range(chance.randint(1, 3))]
            claim = make_claim(task, *[f"{file.table}.{file.format}" for file in files])
            texts = [file.text for file in files]
            if all(file.fits for file in files):
                await deliver(destination, claim, *texts)
                model = apply_task(model, task, files, has_key=has_key)
            else:
                with pytest.raises(SchemaMismatch):
                    await deliver(destination, claim, *texts)
            assert {table: stored(database, table, has_key=has_key) for table in TABLES} == model, texts
