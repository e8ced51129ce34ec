"""The reference decoder: the standard's steps, one after the other, over a whole text. The oracle of `test_sse.py`.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation. Comments that begin
with a section sign quote it.

Rule 1: it is simple, slow, and shares nothing with the package.
Rule 2: a choice that the standard leaves is documented: a retry beyond what `int()` reads is ignored.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import attrs

from oxygent_client import Limits

if TYPE_CHECKING:
    from collections.abc import Iterator

ASCII_DIGITS = "0123456789"


@attrs.frozen
class Dispatched:
    """An event, with the id and the retry at that time."""

    event: str
    data: str
    id: str
    retry: int | None


@attrs.define
class Interpretation:
    """The result of a whole stream."""

    events: list[Dispatched] = attrs.field(factory=list[Dispatched])
    last_event_id: str = ""
    reconnection_time: int | None = None
    comments: int = 0
    names_events: bool = False


def interpret(stream: bytes) -> Interpretation:
    """Return the standard's interpretation of `stream`."""
    # § "Streams must be decoded using the UTF-8 decode algorithm." That strips one leading BOM.
    text = stream.decode("utf-8", "replace")
    text = text.removeprefix("\ufeff")
    found = Interpretation()
    # § "When a stream is parsed, a data buffer, an event type buffer, and a last event ID buffer must be associated
    # with it. They must be initialized to the empty string."
    data_buffer = event_type_buffer = last_event_id_buffer = ""
    retry = None
    for line in lines_of(text):
        # § "If the line is empty (a blank line): dispatch the event, as defined below."
        if line == "":
            # § "Set the last event ID string of the event source to the value of the last event ID buffer."
            found.last_event_id = last_event_id_buffer
            # § "If the data buffer is an empty string, set the data buffer and the event type buffer to the empty
            # string and return."
            if data_buffer != "":
                # § "If the data buffer's last character is a U+000A LINE FEED (LF) character, then remove it."
                data_buffer = data_buffer.removesuffix("\n")
                # § "Initialize event's type to "message" [...] if the event type buffer has a value other than the
                # empty string, change the type."
                kind = event_type_buffer if event_type_buffer != "" else "message"
                found.events.append(Dispatched(kind, data_buffer, found.last_event_id, retry))
            # § "Set the data buffer and the event type buffer to the empty string."
            data_buffer = event_type_buffer = ""
            retry = None
            continue
        # § "If the line starts with a U+003A COLON character (:): ignore the line."
        if line[0] == ":":
            found.comments += 1
            continue
        # § "If the line contains a U+003A COLON character (:): collect the characters on the line before the first
        # colon, and let field be that string. Collect the characters after it, and let value be that string. If value
        # starts with a U+0020 SPACE character, remove it from value." "Otherwise: [...] using the whole line as the
        # field name, and the empty string as the field value."
        field, value = line, ""
        if ":" in line:
            field, value = line[: line.index(":")], line[line.index(":") + 1 :]
            value = value.removeprefix(" ")
        if field == "event":
            # § "Set the event type buffer to the field value."
            event_type_buffer = value
            found.names_events = found.names_events or value != ""
        elif field == "data":
            # § "Append the field value to the data buffer, then append a single U+000A LINE FEED (LF) character."
            data_buffer = data_buffer + value + "\n"
        elif field == "id":
            # § "If the field value does not contain U+0000 NULL, then set the last event ID buffer to the field value."
            if "\0" not in value:
                last_event_id_buffer = value
        elif field == "retry":
            # § "If the field value consists of only ASCII digits, then interpret the field value as an integer in base
            # ten, and set the event stream's reconnection time to that integer." An empty value is no integer.
            digits = value.lstrip("0")
            if value != "" and all(sign in ASCII_DIGITS for sign in value) and len(digits) <= 4300:
                retry = found.reconnection_time = int("0" + digits)
        # § "Otherwise: the field is ignored."
    # § "Once the end of the file is reached, any pending data must be discarded."
    return found


def lines_of(text: str) -> Iterator[str]:
    """Return the lines that have an end.

    § "a U+000D CARRIAGE RETURN U+000A LINE FEED (CRLF) character pair, a single U+000A LINE FEED (LF) character not
    preceded by a U+000D CARRIAGE RETURN (CR) character, and a single U+000D CARRIAGE RETURN (CR) character not followed
    by a U+000A LINE FEED (LF) character being the ways in which a line can end".
    """
    line = ""
    for sign in re.findall("\r\n|.", text, re.DOTALL):
        if sign in {"\r\n", "\n", "\r"}:
            yield line
            line = ""
        else:
            line += sign


def passed(stream: bytes, limits: Limits) -> tuple[str, int] | None:
    """Return the limit that `stream` passes first and the index of the byte, or None.

    A line end counts as one byte of its block, however it is written; the blank line does not belong to its block. A
    byte order mark belongs to the stream only.
    """
    line = block = 0
    before = b""
    mark = 3 if stream.startswith(b"\xef\xbb\xbf") else 0
    for index in range(len(stream)):
        byte = stream[index : index + 1]
        if index + 1 > (limits.stream_bytes or len(stream)):
            return "stream_bytes", index
        if index < mark or (byte == b"\n" and before == b"\r"):
            pass
        elif byte in b"\r\n":
            block = block + 1 if line else 0
            line = 0
        else:
            block += 1
            line += 1
        before = byte
        if line > (limits.line_bytes or len(stream)):
            return "line_bytes", index
        if block > (limits.event_bytes or len(stream)):
            return "event_bytes", index
    return None
