"""Answers a customer's question with what the CRM knows.

Shows: variables in prompts, a secret, and an MCP server that is called with it. The token is sealed in the project; it
goes from the server to the CRM, and the agent never sees it.
"""

from __future__ import annotations

import argparse
import secrets
import sys

from cloutagent import BudgetExceededError, Client, CloutAgentError
from cloutagent.types import AgentConfig, Limits, McpServer
from examples.live import cost, run_live
from examples.projects import open_project
from examples.support_assistant import crm

SYSTEM_PROMPT = """\
You are the support assistant of {{company}}, which sells furniture.

- Look up what a customer asks about with the tools of the CRM. Say only what stands there; guess nothing.
- If the CRM does not know it, say so, and that a colleague will write within a day.
- Tell a customer only about their own orders.
- Answer in at most four sentences, friendly and plain, and sign as "{{company}} support".
"""
PROMPT = """\
{{customer}} asks:

{{question}}
"""
LIMITS = Limits(max_tokens=100_000, max_cost=0.50)


def agent(crm_url: str) -> AgentConfig:
    """The assistant, with the CRM at this address."""
    headers = {"Authorization": "Bearer {{secret:CRM_TOKEN}}"}
    return AgentConfig(
        name="support assistant",
        system_prompt=SYSTEM_PROMPT,
        model="claude-sonnet-4-5",
        max_tokens=1_000,
        mcp_servers={"crm": McpServer(url=crm_url, headers=headers)},
    )


def main() -> int:
    """Answer one question; 0 if that was done."""
    parser = argparse.ArgumentParser(description="Answers a customer's question with what the CRM knows.")
    parser.add_argument("--customer", default="Ada")
    parser.add_argument("--question", default="Where is my order 1042?")
    given = parser.parse_args()
    token = secrets.token_hex(16)
    try:
        with (
            crm.serving(token, given.customer) as url,
            Client(api_key=open_project("support-assistant", agent(url), limits=LIMITS)) as client,
        ):
            client.secrets.set("CRM_TOKEN", token)
            variables = {"company": "Oak & Ash", "customer": given.customer, "question": given.question}
            execution = run_live(client, PROMPT, variables=variables, labels={"channel": "chat"})
    except BudgetExceededError as error:
        print(f"no room in the {error.scope} limit on {error.exceeded}: {error.used} of {error.limit} used")
        return 1
    except CloutAgentError as error:
        print(f"not answered: {error}")
        return 1
    print(f"\nto {given.customer}: {execution.result}\n{cost(execution)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
