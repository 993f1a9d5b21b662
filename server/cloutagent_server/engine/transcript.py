"""What an agent says and does, out of the SDK's messages."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cloutagent_server.domain.events import Message, TextDelta, ToolResult, ToolUse
from cloutagent_server.engine.listening import OrderedListener

if TYPE_CHECKING:
    from claude_agent_sdk import AssistantMessage
    from claude_agent_sdk import Message as SdkMessage


@dataclass(slots=True)
class Transcript:
    """Turns the SDK's messages into outputs: one Message for each message of the model, before its tool calls.

    A response that reached its token limit is continued by the command line in the next one.

    Attributes:
        continued: The text of the latest message with those that it continues; empty if it continues none.
        cut: The text up to and with the latest message if that reached the limit; else empty.
    """

    listener: OrderedListener
    continued: str = ""
    cut: str = ""
    _message_id: str | None = None
    _stop_reason: str | None = None
    _texts: list[str] = field(default_factory=list)
    _tool_uses: list[ToolUse] = field(default_factory=list)

    async def add(self, message: SdkMessage) -> None:
        """Tell the listener what the next message of the SDK holds."""
        from claude_agent_sdk import AssistantMessage, ResultMessage, StreamEvent, ToolResultBlock, UserMessage

        match message:
            case StreamEvent(event={"type": "content_block_delta", "delta": {"type": "text_delta", "text": str(text)}}):
                await self.listener.on_output(TextDelta(text))
            case StreamEvent(event={"type": "message_delta", "delta": {"stop_reason": reason}}):
                self._stop_reason = reason
            case StreamEvent(event={"type": "message_stop"}):
                await self._end_message()
            case AssistantMessage(error=None):
                if message.message_id != self._message_id:
                    await self._end_message()
                    self._message_id = message.message_id
                self._take(message)
            case UserMessage(content=list(blocks)):
                await self._end_message()
                for block in blocks:
                    if isinstance(block, ToolResultBlock):
                        await self.listener.on_output(
                            ToolResult(block.tool_use_id, _flat(block.content), bool(block.is_error))
                        )
            case ResultMessage():
                await self._end_message()

    def _take(self, message: AssistantMessage) -> None:
        from claude_agent_sdk import TextBlock, ToolUseBlock

        for block in message.content:
            if isinstance(block, TextBlock):
                self._texts.append(block.text)
            elif isinstance(block, ToolUseBlock):
                self._tool_uses.append(ToolUse(block.id, block.name, block.input))

    async def _end_message(self) -> None:
        text, tool_uses, reason = "".join(self._texts), self._tool_uses, self._stop_reason
        self._texts, self._tool_uses, self._stop_reason = [], [], None
        if text:
            self.continued = self.cut + text if self.cut else ""
            self.cut = (self.continued or text) if reason == "max_tokens" else ""
            await self.listener.on_output(Message(text))
        for tool_use in tool_uses:
            await self.listener.on_output(tool_use)


def _flat(content: str | Iterable[dict[str, Any]] | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(str(part["text"]) if part.get("type") == "text" else f"[{part.get('type')}]" for part in content)
