"""`project`: create, list, show, update, delete, rotate-key."""

from __future__ import annotations

from typing import Annotated

import typer

from cloutagent.cli import project_fields as fields
from cloutagent.cli.confirming import confirm
from cloutagent.cli.endings import CommandError
from cloutagent.cli.holding import held
from cloutagent.cli.keys import Force, SaveAs, show_key
from cloutagent.cli.new_keys import keep, offered_profile, written_once
from cloutagent.cli.output import as_dict
from cloutagent.cli.project_view import show_project
from cloutagent.cli.rotating import replaced, replaced_by_default
from cloutagent.cli.session import Session, command
from cloutagent.cli.shapes import Group
from cloutagent.cli.text import local_time
from cloutagent.cli.values import length
from cloutagent.types import NewProject

ProjectId = Annotated[
    str | None, typer.Argument(metavar="[PROJECT]", help="The project's id. Default: that of --project, or of the key.")
]


def add_to(cli: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(cls=Group, help="Projects: an agent, its limits, its budget.", no_args_is_help=True)
    command(group, "create")(create)
    command(group, "list")(list_projects)
    command(group, "show")(show)
    command(group, "update")(update)
    command(group, "delete")(delete)
    command(group, "rotate-key")(rotate_key)
    cli.add_typer(group, name="project")


def create(
    session: Session,
    name: Annotated[str, typer.Argument(help="Name for people.", show_default=False)],
    system_prompt: fields.SystemPrompt = None,
    system_prompt_file: fields.SystemPromptFile = None,
    model: fields.Model = None,
    agent_name: fields.AgentName = None,
    description: fields.Description = None,
    temperature: fields.Temperature = None,
    tool: fields.Tool = None,
    max_tokens: fields.MaxTokens = None,
    max_cost: fields.MaxCost = None,
    timeout: fields.Timeout = None,
    daily_cost: fields.DailyCost = None,
    monthly_cost: fields.MonthlyCost = None,
    file: fields.File = None,
    save_as: SaveAs = None,
    force: Force = False,
) -> None:
    """Create a project. Its API key is shown this once, or kept in a profile."""
    project = fields.read_project(file)
    fields.fill(
        project,
        name=name,
        description=description,
        agent_name=agent_name or (None if project.agent.HasField("name") else "assistant"),
        system_prompt=fields.system_prompt(system_prompt, system_prompt_file),
        model=model,
        temperature=temperature,
        tool=tool,
        max_tokens=max_tokens,
        max_cost=max_cost,
        timeout=fields.milliseconds(timeout),
        daily_cost=daily_cost,
        monthly_cost=monthly_cost,
    )
    profile = offered_profile(session, save_as, force)
    with held():
        created = session.client.projects.create(
            name=project.name,
            agent=project.agent,
            description=project.description if project.HasField("description") else None,
            limits=project.limits if project.HasField("limits") else None,
            budget=project.budget if project.HasField("budget") else None,
        )
        _show_new(session, created, profile)


def _show_new(session: Session, created: NewProject, profile: str | None) -> None:
    shown: str | None = created.api_key
    if profile is not None:
        shown = keep(session, profile, created.api_key, created.project.id)
    remedy = f"`cloutagent project rotate-key --project {created.project.id}` replaces it"
    with written_once(session, shown, f"project {created.project.id} is there: {remedy}"):
        if session.output.json:
            document = {"project": as_dict(created.project)}
            session.output.document(document if shown is None else {**document, "apiKey": shown})
            return
        show_project(session.output, created.project)
        if shown is not None:
            session.output.facts((("api key", shown),))
    if shown is not None:
        session.output.note("the API key is shown this once; nobody can read it again")


def list_projects(session: Session) -> None:
    """List the projects that the key may see, oldest first."""
    found = list(session.client.projects.list())
    if session.output.json:
        session.output.document({"projects": [as_dict(each) for each in found]})
        return
    session.output.table(
        ("project", "name", "created", "description"),
        [(each.id, each.name, local_time(each.created_at), each.description) for each in found],
    )


def show(session: Session, project_id: ProjectId = None) -> None:
    """Show a project: its agent, its limits, its budget."""
    project = session.client.projects.get(project_id)
    if session.output.json:
        session.output.document(project)
    else:
        show_project(session.output, project)


def update(
    session: Session,
    project_id: ProjectId = None,
    name: Annotated[str | None, typer.Option(help="Name for people.")] = None,
    system_prompt: fields.SystemPrompt = None,
    system_prompt_file: fields.SystemPromptFile = None,
    model: fields.Model = None,
    agent_name: fields.AgentName = None,
    description: fields.Description = None,
    temperature: fields.Temperature = None,
    tool: fields.Tool = None,
    max_tokens: fields.MaxTokens = None,
    max_cost: fields.MaxCost = None,
    timeout: fields.Timeout = None,
    daily_cost: fields.DailyCost = None,
    monthly_cost: fields.MonthlyCost = None,
    file: fields.File = None,
    reset: Annotated[
        list[str] | None,
        typer.Option("--reset", metavar="FIELD", help="Field to reset, such as description or agent.enabled_tools."),
    ] = None,
) -> None:
    """Change a project: what is given changes, and nothing else."""
    project = fields.read_project(file)
    fields.fill(
        project,
        name=name,
        description=description,
        agent_name=agent_name,
        system_prompt=fields.system_prompt(system_prompt, system_prompt_file),
        model=model,
        temperature=temperature,
        tool=tool,
        max_tokens=max_tokens,
        max_cost=max_cost,
        timeout=fields.milliseconds(timeout),
        daily_cost=daily_cost,
        monthly_cost=monthly_cost,
    )
    mask = [*fields.paths(project), *(reset or ())]
    if not mask:
        raise CommandError("say what to change")
    changed = session.client.projects.update(
        project_id,
        name=project.name if project.HasField("name") else None,
        description=project.description if project.HasField("description") else None,
        agent=project.agent if project.HasField("agent") else None,
        limits=project.limits if project.HasField("limits") else None,
        budget=project.budget if project.HasField("budget") else None,
        update_mask=mask,
    )
    if session.output.json:
        session.output.document(changed)
    else:
        show_project(session.output, changed)


def delete(
    session: Session,
    project_id: Annotated[str, typer.Argument(metavar="PROJECT", help="The project's id.", show_default=False)],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete a project with its secrets and executions, after cancelling those that run."""
    confirm(session.output, f"Delete project {project_id} with its secrets and executions?", yes)
    session.client.projects.delete(project_id)
    session.output.done("deleted", project_id)


def rotate_key(
    session: Session,
    grace_period: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="How long the old key goes on working, such as 5min, or 0s. Default: 1 minute if there is room.",
        ),
    ] = None,
    save_as: SaveAs = None,
    force: Force = False,
) -> None:
    """Replace the key in use by a new one. A profile that had it has the new one then.

    With the admin's key it is the project's default key.
    """
    grace = length(grace_period, "--grace-period")
    current = session.client.projects.current()
    # Else its profile would be left with a key that does not work.
    kept = session.connection.profile if session.connection.own_key and current.HasField("project") else None
    profile = offered_profile(session, save_as or kept, force, own=kept)
    with held():
        created, overlaps = replaced_by_default(session) if grace is None else (replaced(session, grace), False)
        show_key(session, created, profile)
        if overlaps:
            session.output.note("the old key works for 1 minute more; --grace-period 0s ends one at once")
        elif grace is None:
            session.output.note("the old key has ended: the project has as many keys as it may have")
