"""Fake data in OpenWebText's files."""

from tasks.data.text.fake import openwebtext

FAKES = {"OpenWebText": openwebtext}
