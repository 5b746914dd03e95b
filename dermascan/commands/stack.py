"""Commands that start, stop and examine the embedded stack."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from dermascan.commands.shared import console, open_stack

if TYPE_CHECKING:
    from dermascan.stack.embedded import EmbeddedStack, PartStatus
    from dermascan.stack.findings import Finding

PORT_HELP = "Remembered for later starts."


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command()(up)
    app.command()(down)
    app.command()(status)
    app.command()(doctor)


def up(  # noqa: PLR0913  # each is an option of the command
    context: typer.Context,
    *,
    airflow_port: Annotated[
        int | None, typer.Option(envvar="DERMASCAN_AIRFLOW_PORT", help=PORT_HELP)
    ] = None,
    s3_port: Annotated[int | None, typer.Option(envvar="DERMASCAN_S3_PORT", help=PORT_HELP)] = None,
    mlflow_port: Annotated[
        int | None, typer.Option(envvar="DERMASCAN_MLFLOW_PORT", help=PORT_HELP)
    ] = None,
    serving_port: Annotated[
        int | None, typer.Option(envvar="DERMASCAN_SERVING_PORT", help=PORT_HELP)
    ] = None,
    isic_url: Annotated[
        str | None,
        typer.Option(
            envvar="DERMASCAN_ISIC_URL",
            help="Address of the archive for the connection isic_archive; "
            "without it the connection stays as it is.",
        ),
    ] = None,
) -> None:
    """Start object storage, Airflow, MLflow and the API, for this machine only."""
    from dermascan.stack.embedded import UpRequest  # noqa: PLC0415  # fast `--help`

    stack = open_stack(context)
    wanted = {
        "airflow": airflow_port,
        "s3": s3_port,
        "mlflow": mlflow_port,
        "serving": serving_port,
    }
    _show(stack, stack.up(UpRequest(wanted, isic_url or None)))


def down(context: typer.Context) -> None:
    """Stop what `up` started, and nothing else."""
    stopped = open_stack(context).down()
    typer.echo(f"stopped {', '.join(stopped)}" if stopped else "nothing was running")


def status(context: typer.Context) -> None:
    """Show what runs, where, since when. Exit code 1 unless everything is healthy."""
    stack = open_stack(context)
    parts = stack.status()
    _show(stack, parts)
    if not all(part.healthy for part in parts):
        raise typer.Exit(1)


def doctor(
    context: typer.Context,
    endpoint_url: Annotated[
        str | None,
        typer.Option(help="Check this S3 server instead; keys come from the AWS_* variables."),
    ] = None,
    bucket: Annotated[
        str | None, typer.Option(help="Bucket to check in; what is written is deleted again.")
    ] = None,
) -> None:
    """Check this machine and the object storage, and say how to mend what is wrong."""
    from dermascan.stack import doctor as checks  # noqa: PLC0415  # fast `--help`

    stack = open_stack(context)
    findings = [*checks.examine_machine(stack)]
    if endpoint_url or bucket:
        findings += checks.examine_own_storage(endpoint_url, bucket)
    else:
        findings += checks.examine_embedded_storage(stack)
    _show_findings(findings)
    if any(finding.is_problem for finding in findings):
        raise typer.Exit(1)


def _show(stack: "EmbeddedStack", parts: "list[PartStatus]") -> None:
    from rich.table import Table  # noqa: PLC0415  # fast `--help`

    table = Table("part", "state", "pid", "since", "address", box=None, pad_edge=False)
    for part in parts:
        colour = "green" if part.healthy else "red"
        table.add_row(
            part.name,
            f"[{colour}]{part.detail}[/]",
            str(part.pid or ""),
            _since(part.since),
            part.url or "",
        )
    out = console()
    out.print(table)
    if any(part.pid for part in parts):
        out.print(f"Airflow: user admin, password in {stack.paths.airflow_passwords}")
        out.print(f"S3 keys and other secrets: {stack.paths.credentials}")
        out.print(f"Logs: {stack.paths.logs}")


def _since(moment: datetime | None) -> str:
    if moment is None:
        return ""
    from dermascan.progress import format_seconds  # noqa: PLC0415  # fast `--help`

    return format_seconds((datetime.now(UTC) - moment).total_seconds()) + " ago"


def _show_findings(findings: "list[Finding]") -> None:
    from rich.table import Table  # noqa: PLC0415  # fast `--help`

    colours = {"ok": "green", "warning": "yellow", "problem": "red"}
    table = Table("check", "result", "found", box=None, pad_edge=False)
    for finding in findings:
        result = f"[{colours[finding.level]}]{finding.level}[/]"
        found = finding.detail + (f"\n-> {finding.remedy}" if finding.remedy else "")
        table.add_row(finding.check, result, found)
    console().print(table)
