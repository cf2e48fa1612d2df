"""The history of results: predictions, their pictures, and the verdicts of reviewers."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import Any

from fre.line.sinks.files import csv_cell
from fre.serve.database import Database, now, stamp
from fre.serve.pictures import Pictures, StoredImage
from fre.serve.responses import invalid, not_found
from fre.serve.result_rows import Filters, NewResult, parse_cursor, to_cursor, to_result

CSV_COLUMNS = (
    "id",
    "model",
    "model_sha256",
    "name",
    "source",
    "image_sha256",
    "score",
    "p_value",
    "threshold",
    "anomalous",
    "verdict",
    "verdict_at",
    "created",
    "reason",
    "decision",
)

CSV_WINDOW = 1000
"""Number of ids that one transaction reads."""

PAGE_SOURCE = "page"
"""Source of images uploaded on the page."""


class Results:
    """The history of results and their pictures.

    Args:
        database: stores the rows.
        pictures: stores images and maps.
    """

    def __init__(self, database: Database, pictures: Pictures) -> None:
        self.database = database
        self.pictures = pictures
        (kept,) = database.read().execute("SELECT TOTAL(kept_bytes) FROM results").fetchone()
        self._kept = int(kept)

    def add(self, new: Sequence[NewResult]) -> Future[list[dict[str, Any]]]:
        """Store results; the future has their rows once they are on the disk."""
        return self.database.submit(lambda connection: self._add(connection, new))

    def _add(
        self, connection: sqlite3.Connection, new: Sequence[NewResult]
    ) -> list[dict[str, Any]]:
        added = []
        for item in new:
            prediction, shown = item.prediction, item.prediction.to_dict()
            values: dict[str, Any] = {
                "model": item.model,
                "model_sha256": item.model_sha256,
                "calibration_sha256": item.calibration_sha256,
                "name": item.name,
                "source": item.source,
                "image_sha256": item.image_sha256,
                "height": prediction.image_size[0],
                "width": prediction.image_size[1],
                "score": shown["score"],
                "p_value": shown["p_value"],
                "anomalous": int(shown["anomalous"]),
                "threshold": item.threshold,
                "regions": json.dumps(shown["regions"]),
                "created": now(),
                "form": item.form,
                "map_low": item.map_range[0],
                "map_high": item.map_range[1],
                "pixel_threshold": prediction.pixel_threshold,
                "reason": prediction.reason,
                "decision": prediction.decision,
                "kept_bytes": 0,
                "watch_key": item.watch_key,
            }
            columns = ", ".join(values)
            marks = ", ".join(f":{column}" for column in values)
            cursor = connection.execute(
                f"INSERT INTO results ({columns}) VALUES ({marks}) "
                "ON CONFLICT (watch_key) DO NOTHING",
                values,
            )
            if cursor.rowcount == 0:
                row = connection.execute(
                    "SELECT * FROM results WHERE watch_key = ?", (item.watch_key,)
                ).fetchone()
                added.append(to_result(row))
                continue
            identity = cursor.lastrowid
            assert identity is not None
            kept = self.pictures.save(identity, item.data, prediction.input_map)
            if kept:
                connection.execute(
                    "UPDATE results SET kept_bytes = ? WHERE id = ?", (kept, identity)
                )
            self._kept += kept
            row = connection.execute("SELECT * FROM results WHERE id = ?", (identity,)).fetchone()
            added.append(to_result(row))
        self._make_room(connection)
        return added

    def recount(self, identity: int) -> Future[None]:
        """Update the size of a result's pictures, after a preview was added."""

        def count(connection: sqlite3.Connection) -> None:
            row = connection.execute(
                "SELECT kept_bytes FROM results WHERE id = ?", (identity,)
            ).fetchone()
            if row is None or row["kept_bytes"] == 0:
                self.pictures.drop(identity)  # deleted while the preview was drawn
                return
            size = self.pictures.size(identity)
            connection.execute("UPDATE results SET kept_bytes = ? WHERE id = ?", (size, identity))
            self._kept += size - row["kept_bytes"]
            self._make_room(connection)

        return self.database.submit(count)

    def _make_room(self, connection: sqlite3.Connection) -> None:
        """Delete the oldest pictures until nine tenths of the bound are left."""
        if self._kept <= self.pictures.bound:
            return
        rows = connection.execute(
            "SELECT id, kept_bytes FROM results WHERE kept_bytes > 0 ORDER BY id"
        )
        dropped = []
        for identity, size in rows:
            if self._kept <= 0.9 * self.pictures.bound:
                break
            self._kept -= size
            dropped.append((identity,))
            self.pictures.drop(identity)
        rows.close()
        connection.executemany("UPDATE results SET kept_bytes = 0 WHERE id = ?", dropped)

    def get(self, identity: int) -> dict[str, Any]:
        """Return one result.

        Raises:
            Problem: no result has this id.
        """
        return to_result(self._row(identity))

    def _row(self, identity: int) -> sqlite3.Row:
        row = self.database.row("results", identity)
        if row is None:
            raise not_found(f"no result has the id {identity}")
        return row

    def stored(self, identity: int, sha256: str | None = None) -> StoredImage:
        """Return the data that pictures of a result are drawn from.

        Args:
            identity: id of the result.
            sha256: first digits of the image's digest; ``None`` for whatever image it is.

        Raises:
            Problem: no result has this id, or it is of another image.
        """
        row = self._row(identity)
        if sha256 is not None and not row["image_sha256"].startswith(sha256):
            raise not_found(f"result {identity} is of another image than {sha256}")
        size, scale = (row["height"], row["width"]), (row["map_low"], row["map_high"])
        return StoredImage(identity, row["form"], size, scale)

    def page(
        self, filters: Filters, *, order: str, limit: int, cursor: str | None
    ) -> dict[str, Any]:
        """Return a page of results, and the cursor of the next page.

        Args:
            filters: conditions on the results.
            order: ``"worst"`` for the highest score first, else newest first.
            limit: number of results on the page.
            cursor: cursor of the page, or ``None`` for the first page.

        Raises:
            Problem: the cursor is invalid.
        """
        where, values = filters.where()
        connection = self.database.read()
        (total,) = connection.execute(
            f"SELECT COUNT(*) FROM results WHERE {where}", values
        ).fetchone()
        if cursor is not None:
            score, identity = parse_cursor(cursor)
            if order == "worst":
                where += " AND (score, id) < (?, ?)"
                values += [score, identity]
            else:
                where += " AND id < ?"
                values.append(identity)
        by = "score DESC, id DESC" if order == "worst" else "id DESC"
        rows = connection.execute(
            f"SELECT * FROM results WHERE {where} ORDER BY {by} LIMIT ?", [*values, limit + 1]
        ).fetchall()
        following = None
        if len(rows) > limit:
            rows = rows[:limit]
            following = to_cursor(rows[-1]["score"], rows[-1]["id"])
        return {
            "results": [to_result(row) for row in rows],
            "next": following,
            "total": total,
        }

    def csv(self, filters: Filters) -> Iterator[str]:
        """Yield the results as CSV text, oldest first.

        No transaction is open between two pieces. A client that stops reading would otherwise keep
        the write-ahead log from being emptied. Results added meanwhile are left out.
        """
        where, values = filters.where()
        # A separate connection, because the pieces are made on changing threads.
        connection = self.database.open_reader()
        try:
            (last,) = connection.execute("SELECT COALESCE(MAX(id), 0) FROM results").fetchone()
            buffer = io.StringIO()
            writer = csv.writer(buffer)
            writer.writerow(CSV_COLUMNS)
            for first in range(1, last + 1, CSV_WINDOW):
                rows = connection.execute(
                    f"SELECT * FROM results WHERE {where} AND id BETWEEN ? AND ? ORDER BY id",
                    [*values, first, min(first + CSV_WINDOW - 1, last)],
                ).fetchall()
                for row in rows:
                    shown = to_result(row)
                    writer.writerow([csv_cell(shown[column]) for column in CSV_COLUMNS])
                if buffer.tell() > 65536:
                    yield buffer.getvalue()
                    buffer.seek(0)
                    buffer.truncate()
            yield buffer.getvalue()
        finally:
            connection.close()

    def set_verdict(self, identity: int, verdict: str | None) -> dict[str, Any]:
        """Store the verdict of a reviewer.

        Raises:
            Problem: no result has this id.
        """
        self._row(identity)
        moment = None if verdict is None else now()
        self.database.write(
            lambda connection: connection.execute(
                "UPDATE results SET verdict = ?, verdict_at = ? WHERE id = ?",
                (verdict, moment, identity),
            )
        )
        return self.get(identity)

    def set_learnt(self, identities: Sequence[int]) -> list[dict[str, Any]]:
        """Record that a model was updated with the images of these results."""
        moment = now()
        self.database.write(
            lambda connection: connection.executemany(
                "UPDATE results SET learnt_at = ? WHERE id = ?",
                [(moment, identity) for identity in identities],
            )
        )
        return [self.get(identity) for identity in identities]

    def image_of_good_part(self, identity: int, model: str) -> tuple[str, bytes]:
        """Return name and file content of an image that a reviewer called good.

        Raises:
            Problem: no result has this id, the result belongs to another model or is not marked as
                good, or its image was deleted.
        """
        row = self._row(identity)
        if row["model"] != model:
            raise invalid(f"result {identity} is of {row['model']}, not {model}")
        if row["verdict"] != "good":
            raise invalid(f"result {identity} is not marked as good")
        return row["name"], self.pictures.image(identity)

    def count(self) -> int:
        """Return the number of results."""
        (total,) = self.database.read().execute("SELECT COUNT(*) FROM results").fetchone()
        return int(total)

    def rate(
        self, model: str, source: str | None, *, end: float, seconds: int, buckets: int
    ) -> list[dict[str, Any]]:
        """Return the number of images and of anomalous images in each time span.

        Args:
            model: name of the model.
            source: source of the images, or ``None`` for all.
            end: time in the last span, in seconds since 1970.
            seconds: length of a span, in seconds.
            buckets: number of spans.
        """
        first = (int(end) // seconds - buckets + 1) * seconds
        where, values = Filters(model=model, source=source, since=stamp(first)).where()
        rows = self.database.read().execute(
            "SELECT (CAST(strftime('%s', created) AS INTEGER) - ?) / ? AS bucket, "
            f"COUNT(*), SUM(anomalous) FROM results WHERE {where} GROUP BY bucket",
            [first, seconds, *values],
        )
        counts = {bucket: (n, anomalous) for bucket, n, anomalous in rows}
        spans = []
        for bucket in range(buckets):
            n, anomalous = counts.get(bucket, (0, 0))
            spans.append(
                {
                    "start": stamp(first + bucket * seconds),
                    "n": n,
                    "n_anomalous": anomalous,
                    "rate": anomalous / n if n else None,
                }
            )
        return spans

    def recent_p_values(
        self, model: str, calibration_sha256: str, source: str | None, n: int
    ) -> list[float]:
        """Return p-values of the last parts that are not known defects, newest first.

        Images uploaded on the page are left out. People choose them, often defects, so they say
        nothing about the parts of a line.

        Args:
            model: name of the model.
            calibration_sha256: digest of its calibration; other p-values are not comparable.
            source: source of the images; ``None`` for all but the page.
            n: largest number of p-values.
        """
        where, values = Filters(model=model, source=source).where()
        rows = self.database.read().execute(
            f"SELECT p_value FROM results WHERE {where} AND calibration_sha256 = ? "
            "AND source != ? AND verdict IS NOT 'defect' AND p_value BETWEEN 0 AND 1 "
            "ORDER BY id DESC LIMIT ?",
            [*values, calibration_sha256, PAGE_SOURCE, n],
        )
        return [p_value for (p_value,) in rows]

    def reviewed(self, model: str) -> list[sqlite3.Row]:
        """Return reviewed results of a model: of each image the one that was reviewed last.

        Each row has ``score``, ``reason``, ``verdict``, ``calibration_sha256`` and
        ``image_sha256``.

        Args:
            model: name of the model.
        """
        return (
            self.database.read()
            .execute(
                # SQLite takes the other columns from the row of the maximum.
                "SELECT score, reason, verdict, calibration_sha256, image_sha256, "
                "MAX(verdict_at || id) FROM results WHERE model = ? AND verdict IS NOT NULL "
                "GROUP BY image_sha256, calibration_sha256",
                [model],
            )
            .fetchall()
        )

    def watched(self) -> set[str]:
        """Return the keys of files in the watched folder that are done."""
        rows = self.database.read().execute(
            "SELECT watch_key FROM results WHERE watch_key IS NOT NULL "
            "UNION SELECT watch_key FROM unreadable"
        )
        return {key for (key,) in rows}
