"""Reads an XML file element by element, in little memory. Document types are refused: entities can expand until the memory
is full, or read other files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from xml.parsers import expat

from ....errors import AnnotationError
from ..json_file import unpacked

Attributes = dict[str, str]


def parse_xml(
    file: Path,
    opened: Callable[[str, Attributes, int], None],
    closed: Callable[[str, str], None],
    kind: str = "an XML file",
) -> None:
    """Call ``opened`` (element, attributes, line) and ``closed`` (element, text in it since the last mark) in order.

    Raises AnnotationError with line and column for what is no XML.
    """
    parser = expat.ParserCreate()
    parser.buffer_text = True
    text: list[str] = []

    def start(name: str, attributes: Attributes) -> None:
        text.clear()
        opened(name, attributes, parser.CurrentLineNumber)

    def end(name: str) -> None:
        closed(name, "".join(text).strip())
        text.clear()

    def refuse(*_: object) -> None:
        where = f"line {parser.CurrentLineNumber}"
        raise AnnotationError(file, None, where, "a document type, which no annotation tool writes", hint="remove it")

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = text.append
    parser.StartDoctypeDeclHandler = refuse
    content = unpacked(file, kind)
    try:
        parser.Parse(content, True)
    except expat.ExpatError as error:
        where = f"line {error.lineno} column {error.offset + 1}"
        found = f"a file that starts with {content[:60].decode('utf-8', 'replace')!r}" if content else "an empty file"
        message = f"not {kind}: {expat.ErrorString(error.code)}"
        raise AnnotationError(file, None, where, message, found=found, hint="export it again") from None
