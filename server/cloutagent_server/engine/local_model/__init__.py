"""A scripted Messages API on loopback: a development stand-in for the vendor's API. No language model is behind it.

`LocalModel` answers `POST /v1/messages` (streamed or whole) and `POST /v1/messages/count_tokens` in the vendor's
format, with exact usage. The real agent runs against it in the demo and in the tests, without an account.

Prompts steer it
----------------
A directive is `[[name]]` or `[[name: argument]]`, anywhere in the prompt; the text around directives is ignored. The
prompt is the last message of the user that is no tool result. The header `x-local-model-script` replaces the prompt's
directives. Without any directive a script of the `ScriptLibrary` answers that fits the prompt, else one sentence that
quotes the beginning of the prompt. Double brackets
that hold no directive's name are ordinary text; a directive with a wrong argument is answered with status 400.

    [[say: Hello there.]]              writes the text (one space after the colon is dropped)
    [[tokens: 5000]]                   writes filler of exactly so many tokens
    [[result]]                         writes the text that the last tool answered
    [[tool: TodoWrite {"todos": []}]]  calls a tool with this JSON object; without an object the input is {}
    [[delay: 200ms]]                   waits; also 1.5s
    [[rate: 50/s]]                     from here to the end of the script, writes so many tokens a second
    [[usage: input=900 cache_read=50 cache_write=20]]
                                       reports these input counts for this call; what is not named is counted

    [[error: 529]]                     fails; also [[error: 429 retry-after=1]], with that header in seconds
    [[cut]]                            drops the connection
    [[garbage]]                        sends what is neither an event nor JSON, then ends
    [[silence]]                        sends nothing more until the client goes away
    [[fail-once: 529]]                 fails the first time that this call is made and not when it is repeated; takes
                                       what [[error]] takes, or cut, garbage, silence

Directives are carried out in order. A tool call ends the answer; when its result is there, the next call goes on with
the directive after it. Which call it is follows from the number of tool results after the prompt, so nothing is
remembered between calls except which [[fail-once]] has struck. (A repeated call is one with the same session, prompt
and tool results.) A script that has no more to say answers "Done.".

The answer begins with the first text, tool call or garbage. What comes before it keeps the client waiting for the
status line, and an error there is an HTTP status; an error after it is an `error` event inside the stream.

    Write a plan. [[say: I plan first.]] [[tool: TodoWrite {"todos": []}]] [[delay: 1s]] [[say: All planned.]]

Tokens
------
Four characters (Unicode code points) are one token, rounded up. Input counts the compact JSON of `system`, `messages`
and `tools` together. Output counts each written text, and for a tool call its name and the compact JSON of its input.
An answer stops at `max_tokens` exactly, with stop reason `max_tokens`. So a count never exceeds the bytes of the
request.

Ledger
------
`LocalModel.ledger` and `GET /ledger` list the calls with what the client was told about them, to compare metering with.
The ledger holds a digest of the API key and no text.
"""

from cloutagent_server.engine.local_model.ledger import Call, Ledger
from cloutagent_server.engine.local_model.library import ScriptLibrary
from cloutagent_server.engine.local_model.script import ScriptError
from cloutagent_server.engine.local_model.server import LocalModel

__all__ = ["Call", "Ledger", "LocalModel", "ScriptError", "ScriptLibrary"]
