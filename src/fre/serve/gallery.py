"""Respond with pictures, without delaying anything else.

Pictures are drawn on threads of their own. Pictures of large images are drawn one at a time,
outside the service (`drawing_process`), which bounds the memory to one image. Pictures that may be
large go through an unnamed file to the client, never through memory as a whole.
"""

from __future__ import annotations

import asyncio
import io
import json
import logging
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import IO, Any, TypeAlias

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from fre.parallel import available_cores
from fre.serve.drawing_process import (
    DRAW_SECONDS,
    Painter,
    command,
    died,
    order,
    told_problem,
    too_slow,
)
from fre.serve.pictures import (
    BROWSER_TYPES,
    IMAGE,
    MAP,
    MAP_PREVIEW,
    PREVIEW,
    PictureRequest,
    Pictures,
    StoredImage,
    draw,
    media_type,
    not_kept,
    wants_preview,
)
from fre.serve.responses import Problem

log = logging.getLogger("fre.serve")

Gone: TypeAlias = "Callable[[], Awaitable[bool]]"

FOREVER = {"Cache-Control": "private, max-age=31536000, immutable"}
LIMITS = {"ordinary": 256, "large": 64, "whole": 8}
"""Number of pictures that wait, are drawn or are sent: of ordinary images, small pictures of large
images, and full-size pictures of large images."""
STALL_SECONDS = 60.0
"""Time after which a client that reads nothing is disconnected, in seconds."""
CHUNK = 256 * 1024


class Gallery:
    """Draws pictures of results, and responds with them.

    Args:
        pictures: stored images and maps.
        large_pixels: number of pixels above which images are drawn one at a time.
        grown: called with the id of a result whose stored pictures have grown.
    """

    def __init__(
        self, pictures: Pictures, large_pixels: int, grown: Callable[[int], object]
    ) -> None:
        self.pictures = pictures
        self.large_pixels = large_pixels
        self.grown = grown
        self._threads = ThreadPoolExecutor(available_cores(), thread_name_prefix="fre-draw")
        self._busy = dict.fromkeys(LIMITS, 0)
        self._one: asyncio.Lock | None = None
        self._painter = Painter()
        self._drawing: dict[tuple[StoredImage, PictureRequest], _Drawing] = {}

    def close(self) -> None:
        """Stop drawing; callable from any thread."""
        self._painter.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def answer(self, stored: StoredImage, wanted: PictureRequest, gone: Gone) -> Response:
        """Return a picture as a response.

        Args:
            stored: the result.
            wanted: the requested picture.
            gone: returns whether the client has left, so that its picture need not be drawn.

        Raises:
            Problem: the pictures were deleted, the image can't be decoded, the client has left, or
                too many pictures are requested.
        """
        lane = self._lane(stored, wanted)
        release = self._take(lane)
        try:
            if lane == "large":
                file: IO[bytes] = io.BytesIO(await self._shared(stored, wanted, gone))
            else:
                file = await self._file(stored, wanted, gone, whole=lane == "whole")
            size = await asyncio.to_thread(file.seek, 0, io.SEEK_END)
            return _FileAnswer(file, size, media_type(stored, wanted), release)
        except BaseException:
            release()
            raise

    async def _shared(self, stored: StoredImage, wanted: PictureRequest, gone: Gone) -> bytes:
        """Draw a small picture of a large image once for all clients that request it meanwhile."""
        key = (stored, wanted)
        drawing = self._drawing.get(key)
        if drawing is None:
            drawing = self._drawing[key] = _Drawing()

            async def draw_it() -> bytes:
                try:
                    return await self._paint(stored, wanted, drawing.is_deserted)
                finally:
                    del self._drawing[key]

            drawing.task = asyncio.create_task(draw_it())
        drawing.clients.append(gone)
        assert drawing.task is not None
        return await asyncio.shield(drawing.task)

    def _take(self, lane: str) -> Callable[[], None]:
        """Take a place in a lane; return the function that frees it."""
        limit = LIMITS[lane]
        if self._busy[lane] >= limit:
            raise Problem(
                503,
                "queue_full",
                f"{limit} pictures of this kind ({lane}) are being drawn or sent; try again "
                "shortly",
                retry_after=2,
            )
        self._busy[lane] += 1
        held = [lane]

        def release() -> None:
            if held:
                self._busy[held.pop()] -= 1

        return release

    def _lane(self, stored: StoredImage, wanted: PictureRequest) -> str:
        """Return the lane of a picture, by its cost in time and memory."""
        if stored.pixels <= self.large_pixels or _as_sent(stored, wanted):
            return "ordinary"
        if wanted.kind == "heat":
            return "large" if self._has_large_map(stored) else "ordinary"
        if wanted.size is None:
            return "whole"
        return "ordinary" if self._has_preview(stored, wanted) else "large"

    def _has_large_map(self, stored: StoredImage) -> bool:
        """Return whether the map is as large as the image, because the model has tiles."""
        try:
            return self.pictures.path(stored.identity, MAP).stat().st_size > 4 * self.large_pixels
        except OSError:
            return False

    def _has_preview(self, stored: StoredImage, wanted: PictureRequest) -> bool:
        if not wants_preview(stored, wanted):
            return False
        if wanted.kind == "overlay" and self._has_large_map(stored):
            return self.pictures.path(stored.identity, MAP_PREVIEW).exists()
        return self.pictures.path(stored.identity, PREVIEW).exists()

    async def _paint(self, stored: StoredImage, wanted: PictureRequest, gone: Gone) -> bytes:
        """Draw a small picture of a large image outside the service, after earlier ones."""
        async with self._turn():
            await _still_wanted(gone)
            picture = order(self.pictures, stored, wanted)
            with self._recounted(stored, wanted):
                data: bytes = await self._run(self._painter.draw, picture)
        return data

    async def _file(
        self, stored: StoredImage, wanted: PictureRequest, gone: Gone, *, whole: bool
    ) -> IO[bytes]:
        if _as_sent(stored, wanted):
            try:
                sent: IO[bytes] = await self._run(
                    self.pictures.path(stored.identity, IMAGE).open, "rb"
                )
                return sent
            except OSError as error:
                raise not_kept(stored.identity) from error
        # An unnamed file: the picture may be too large for memory.
        file: IO[bytes] = io.BytesIO()
        if whole or (wanted.size is None and wanted.kind != "heat"):
            folder = self.pictures.folder
            file = await self._run(lambda: tempfile.TemporaryFile(dir=folder))  # noqa: SIM115  (closed by the response)
        try:
            if whole:
                await self._draw_alone(stored, wanted, file, gone)
            else:
                with self._recounted(stored, wanted):
                    await self._run(draw, self.pictures, stored, wanted, file)
        except BaseException:
            file.close()
            raise
        return file

    @contextmanager
    def _recounted(self, stored: StoredImage, wanted: PictureRequest) -> Iterator[None]:
        """Report that the stored pictures have grown if a drawing leaves a preview."""
        known = self._has_preview(stored, wanted)
        yield
        if wants_preview(stored, wanted) and not known:
            self.grown(stored.identity)

    def _turn(self) -> asyncio.Lock:
        """Return the lock of the picture that is drawn outside the service."""
        if self._one is None:
            self._one = asyncio.Lock()
        return self._one

    async def _run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)

    async def _draw_alone(
        self, stored: StoredImage, wanted: PictureRequest, file: IO[bytes], gone: Gone
    ) -> None:
        """Draw in a process of its own, after earlier pictures are done."""
        async with self._turn():
            await _still_wanted(gone)
            process = await asyncio.create_subprocess_exec(
                *command(self.pictures, stored, wanted),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=file,
                stderr=asyncio.subprocess.PIPE,
            )
            try:
                _, told = await asyncio.wait_for(process.communicate(), DRAW_SECONDS)
            except asyncio.TimeoutError:
                raise too_slow() from None
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
        if process.returncode != 0:
            raise _told(told.decode("utf-8", "replace"), process.returncode)


class _Drawing:
    """A picture in drawing, and the clients that wait for it."""

    def __init__(self) -> None:
        self.task: asyncio.Task[bytes] | None = None
        self.clients: list[Gone] = []

    async def is_deserted(self) -> bool:
        """Return whether all clients have left."""
        for gone in list(self.clients):
            if not await gone():
                return False
        return True


def _as_sent(stored: StoredImage, wanted: PictureRequest) -> bool:
    """Return whether the picture is the image file itself."""
    return wanted.kind == "image" and wanted.size is None and stored.form in BROWSER_TYPES


async def _still_wanted(gone: Gone) -> None:
    if await gone():
        raise Problem(503, "shutting_down", "the client has left", retry_after=1)


def _told(text: str, code: int | None) -> Problem:
    """Return the error that a drawing process printed."""
    lines = text.strip().splitlines() or [""]
    try:
        return told_problem(json.loads(lines[-1]))
    except (ValueError, KeyError, TypeError):
        return died(code, text)


class _FileAnswer(Response):
    """A response with an open file, sent in chunks and closed afterwards.

    Args:
        file: file open for reading.
        size: size of the file, in bytes.
        media: media type.
        release: called once the file is closed.
    """

    def __init__(self, file: IO[bytes], size: int, media: str, release: Callable[[], None]) -> None:
        super().__init__(media_type=media, headers={**FOREVER, "Content-Length": str(size)})
        self.file = file
        self.release = release

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await asyncio.to_thread(self.file.seek, 0)
            await send(
                {
                    "type": "http.response.start",
                    "status": self.status_code,
                    "headers": self.raw_headers,
                }
            )
            more = True
            while more:
                chunk = await asyncio.to_thread(self.file.read, CHUNK)
                more = len(chunk) > 0
                part = {"type": "http.response.body", "body": chunk, "more_body": more}
                await asyncio.wait_for(send(part), STALL_SECONDS)
        except asyncio.TimeoutError:
            # The server closes the connection of an incomplete response.
            log.warning("a picture was not sent: its client read nothing for %d s", STALL_SECONDS)
        finally:
            self.file.close()
            self.release()
