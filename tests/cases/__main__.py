"""``python -m tests.cases`` writes the table into the documentation."""

from tests.cases.document import DOCUMENT, filled

DOCUMENT.write_text(filled(DOCUMENT.read_text()))
