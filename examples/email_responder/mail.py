"""A mail as the responder sees it, and the mail that answers it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from email import message_from_binary_file, policy
from email.errors import MessageError
from email.message import EmailMessage
from email.utils import parseaddr
from pathlib import Path

from examples.email_responder.html_text import text_of


@dataclass(frozen=True)
class Mail:
    """One mail. What it does not have is empty, and its headers are single lines whatever they were.

    Attributes:
        automatic: Whether a program sent it. It may answer answers, and would be answered for ever.
    """

    sender: str
    recipient: str
    subject: str
    date: str
    message_id: str
    body: str
    automatic: bool

    @property
    def address(self) -> str:
        """The sender's address alone."""
        return parseaddr(self.sender)[1]

    @property
    def key(self) -> str:
        """What makes it this mail: the same when it is delivered twice, and never that of another sender's mail.

        Without the sender in it, whoever writes a Message-ID that another mail has would get the answer to that one.
        """
        told = [self.message_id] if self.message_id else [self.date, self.subject, self.body]
        return hashlib.sha256(json.dumps([self.address, *told]).encode()).hexdigest()


def read(path: Path) -> Mail:
    """The mail in a file. Raises ValueError if it cannot be read or has nobody to answer to."""
    try:
        with path.open("rb") as file:
            message = message_from_binary_file(file, EmailMessage, policy=policy.default)
        mail = Mail(
            sender=_header(message, "from"),
            recipient=_header(message, "to"),
            subject=_header(message, "subject"),
            date=_header(message, "date"),
            message_id=_header(message, "message-id"),
            body=_body(message),
            automatic=_is_automatic(message),
        )
    # Among these is what the standard library's parser raises for headers that it cannot make sense of.
    except (OSError, ValueError, LookupError, AttributeError, MessageError) as error:
        raise ValueError(f"it cannot be read: {error}") from error
    if "@" not in mail.address:
        raise ValueError("it has no address to answer to")
    return mail


def draft(mail: Mail, text: str) -> EmailMessage:
    """The mail that answers another one. However often it is made, its Message-ID is the same."""
    reply = EmailMessage()
    if mail.recipient:
        reply["From"] = mail.recipient
    reply["To"], reply["Subject"] = mail.sender, f"Re: {mail.subject}"
    reply["Message-ID"] = f"<reply-{mail.key}@example.com>"
    if mail.message_id:
        reply["In-Reply-To"] = mail.message_id
    reply["Auto-Submitted"] = "auto-replied"
    reply.set_content(text)
    return reply


def _body(message: EmailMessage) -> str:
    for kind in ("plain", "html"):
        part = message.get_body((kind,))
        content = "" if part is None else str(part.get_content())
        text = text_of(content) if kind == "html" else content
        if text.strip():
            return text
    return ""


def _header(message: EmailMessage, name: str) -> str:
    return " ".join(str(message.get(name, "")).split())


def _is_automatic(message: EmailMessage) -> bool:
    submitted = _header(message, "auto-submitted").partition(";")[0].strip().lower()
    return (
        submitted not in ("", "no")
        or _header(message, "precedence").lower() in ("bulk", "junk", "list")
        or _header(message, "return-path") == "<>"
        or parseaddr(_header(message, "from"))[1].lower().startswith("mailer-daemon")
    )
