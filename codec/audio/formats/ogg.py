"""Pages of Ogg files (RFC 3533): joined streams, which libsndfile reads only the first of, and missing ends.

libsndfile does not read FLAC in Ogg (RFC 9639, section 10.1). What its pages contain is native FLAC behind 9 bytes.
"""

from itertools import pairwise
from typing import BinaryIO, NamedTuple, cast

from codec.audio.formats.flac import inspect_flac
from codec.audio.formats.view import Finding, View, read_at

__all__ = ["inspect_ogg"]

_HEAD_BYTES = 27
_MAX_PAGE_BYTES = _HEAD_BYTES + 255 + 255 * 255
_PROBES = 8
_FIRST, _LAST = 2, 4  # flags of the first and the last page of a stream
_FLAC_MAGIC, _FLAC_HEAD_BYTES = b"\x7fFLAC", 9


class _Page(NamedTuple):
    start: int
    content: int  # where it begins
    stop: int
    flags: int
    serial: int
    number: int
    is_cut: bool = False  # another page begins within it


def inspect_ogg(file: BinaryIO, start: int, file_bytes: int) -> Finding | None:
    """Finds the streams that a file consists of. None if it is no Ogg.

    Args:
        file: Seekable.
        start: Of the first page.
        file_bytes: Size of the file.
    """
    first = _page_at(file, start)
    if first is None:
        return None
    last = _last_page(file, first.stop, file_bytes) or first
    is_flac = _is_flac(file, first)
    if not is_flac and _is_one_stream(file, first, last):
        return Finding(notes=_missing_end([last], file_bytes), last_seeks=[_last_seek(file, start, last)])
    pages = _all_pages(file, start, file_bytes)
    if len(pages) > 1 and pages[1].flags & _FIRST:  # audio beside video, which is no chain
        return Finding()
    joints = [(before, page) for before, page in pairwise(pages) if page.flags & _FIRST and not before.flags & _FIRST]
    starts = [start, *(page.start for _, page in joints), file_bytes]
    ends = [*(before for before, _ in joints), pages[-1]]
    notes = _missing_end(ends, file_bytes)
    lost = len({page.serial for page in pages} - {page.serial for page in pages if page.flags & _FIRST})
    if lost:
        notes.append(f"{lost} streams without a first page are not read.")
    if is_flac:
        streams = [[page for page in pages if begin <= page.start < stop] for begin, stop in pairwise(starts)]
        return _flac_finding(file, [stream for stream in streams if _is_flac(file, stream[0])], notes, file_bytes)
    last_seeks = [_last_seek(file, first, end) for first, end in zip(starts[:-1], ends, strict=True)]
    return Finding([View(file, [part]) for part in pairwise(starts)], notes, last_seeks=last_seeks)


def _is_flac(file: BinaryIO, page: _Page) -> bool:
    return read_at(file, page.content, len(_FLAC_MAGIC)) == _FLAC_MAGIC


def _flac_finding(file: BinaryIO, streams: list[list[_Page]], notes: list[str], file_bytes: int) -> Finding:
    """Native FLAC of each stream: what its pages contain, one after the other."""
    views: list[View] = []
    flac_notes: list[str] = []
    for pages in streams:
        own = [page for page in pages if page.serial == pages[0].serial]
        contents = [(page.content, min(page.stop, file_bytes)) for page in own]
        flac = View(file, [(contents[0][0] + _FLAC_HEAD_BYTES, contents[0][1]), *contents[1:]])
        found = inspect_flac(cast(BinaryIO, flac), 0, flac.size)
        flac.seek(0)
        views += [flac] if found is None or found.views is None else found.views
        flac_notes += [] if found is None else found.notes
    return Finding(views, flac_notes or notes)  # one note for an end that is missing


def _last_seek(file: BinaryIO, start: int, last: _Page) -> int:
    """The frame at which the page before the last one ends.

    libvorbis is off by up to 128 samples after a seek into a last page whose end is trimmed.
    """
    before = _last_page(file, start, last.start)
    granule = b"" if before is None else read_at(file, before.start + 6, 8)  # -1: no packet ends on the page
    return max(0, int.from_bytes(granule, "little", signed=True))


def _missing_end(ends: list[_Page], file_bytes: int) -> list[str]:
    """A note for each stream whose last page is not marked as such, or is cut."""
    notes = []
    for number, page in enumerate(ends, 1):
        is_cut = page.is_cut or page.stop > file_bytes
        if is_cut or not page.flags & _LAST:
            stream = "the stream" if len(ends) == 1 else f"stream {number} of {len(ends)}"
            how = "its last page is cut" if is_cut else "no page is marked as its last"
            notes.append(f"The end of {stream} is missing: {how}.")
    return notes


def _page_at(file: BinaryIO, position: int) -> _Page | None:
    head = read_at(file, position, _HEAD_BYTES + 255)
    if head[:5] != b"OggS\0" or len(head) < _HEAD_BYTES:
        return None
    table = head[_HEAD_BYTES : _HEAD_BYTES + head[26]]
    stop = position + _HEAD_BYTES + head[26] + sum(table)
    serial, number = (int.from_bytes(head[at : at + 4], "little") for at in (14, 18))
    return _Page(position, position + _HEAD_BYTES + head[26], stop, head[5], serial, number)


def _next_page(file: BinaryIO, position: int, stop: int) -> _Page | None:
    """The first page that starts at `position` or later and before `stop`."""
    while position < stop:
        data = read_at(file, position, min(_MAX_PAGE_BYTES, stop - position + 4))
        found = data.find(b"OggS\0")
        if found < 0:
            position += max(1, len(data) - 4)
        elif (page := _page_at(file, position + found)) is not None:
            return page
        else:
            position += found + 1
    return None


def _last_page(file: BinaryIO, start: int, stop: int) -> _Page | None:
    first = max(start, stop - 2 * _MAX_PAGE_BYTES)
    data = read_at(file, first, stop - first)
    position = len(data)
    while (position := data.rfind(b"OggS\0", 0, position)) >= 0:
        if (page := _page_at(file, first + position)) is not None:
            return page
    return None


def _is_one_stream(file: BinaryIO, first: _Page, last: _Page) -> bool:
    """Looks at a few pages only: the stream is the same everywhere, and its pages are numbered in order."""
    step = max(1, (last.start - first.start) // _PROBES)
    probes = [_next_page(file, position, last.start) for position in range(first.stop, last.start, step)]
    pages = [first, *(page for page in probes if page is not None), last]
    return all(
        page.serial == first.serial and before.number <= page.number and not page.flags & _FIRST
        for before, page in pairwise(pages)
        if page is not first
    )


def _all_pages(file: BinaryIO, start: int, stop: int) -> list[_Page]:
    pages = []
    position = start
    while (page := _page_at(file, position) or _next_page(file, position, stop)) is not None:
        position = page.stop
        if position < stop and _page_at(file, position) is None:
            inner = _next_page(file, page.start + _HEAD_BYTES, position)
            if inner is not None:
                page, position = page._replace(is_cut=True), inner.start
        pages.append(page)
    return pages
