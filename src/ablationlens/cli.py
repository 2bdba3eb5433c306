"""The command line: parse, call, exit code.

Exit codes: 0 done; 2 wrong input, with one line on the error stream; 130 stopped with Ctrl-C, with the line that goes
on. Tables and paths go to the output stream, everything else to the error stream. What a command needs is imported
inside it, so that ``--help`` loads no host library.
"""

from __future__ import annotations

import logging
import os
import shlex
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from ablationlens import __version__, progress
from ablationlens.errors import AblationLensError, ConfigError, InputError

if TYPE_CHECKING:
    import pandas as pd

    from ablationlens.registry import Registry

WRONG_INPUT = 2
INTERRUPTED = 130
OPTION_OF = {"row_block": "--size", "rank_one": "--svd"}
"""Kinds that need a number, and the option that gives it."""
# click's class of all wrong calls, which newer versions of typer bring themselves.
UsageError = cast("type[typer.BadParameter]", typer.BadParameter.__bases__[0])

app = typer.Typer(
    name="ablationlens",
    help="What would the output of a model be if these parts were gone?",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    Args:
        arguments: of the command line; those of the process by default.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    asked = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        code = app(args=asked, prog_name="ablationlens", standalone_mode=False)
    except UsageError as error:
        return _refuse(f"{error.format_message()} See ablationlens --help")
    except AblationLensError as error:
        return _refuse(str(error))
    except OSError as error:
        if error.filename is None:  # not about a file that the user named: a defect, to be seen whole
            raise
        return _refuse(f"{error.filename}: {error.strerror}")
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    return code if isinstance(code, int) else 0


def _refuse(message: str) -> int:
    """One line, however many the message has."""
    typer.echo("error: " + "; ".join(line.strip() for line in message.splitlines() if line.strip()), err=True)
    return WRONG_INPUT


@contextmanager
def _resumable(*command: str) -> Generator[None]:
    """Say how to go on if the run is stopped with Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"stopped; what was done is kept. Go on with: {shlex.join(['ablationlens', *command])}", err=True)
        raise typer.Exit(INTERRUPTED) from None


def _quiet_hosts() -> None:
    """What the hosts say while they load a model is no news; warnings of this library still are."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    progress.show(logging.WARNING)


def _text(frame: pd.DataFrame) -> str:
    return frame.to_string(index=False, float_format="{:.3f}".format)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    if version:
        typer.echo(f"ablationlens {__version__}")
        raise typer.Exit


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Directory for results; a demo that was stopped there goes on.")] = Path(
        "demo"
    ),
) -> None:
    """Which rows and heads of a bundled model write Python? Three methods side by side, in a minute."""
    from ablationlens.counterfactuals.record import threads
    from ablationlens.runs import demo as demos

    # so small a model gains little by a second thread, and where cores are busy threads wait for one another
    begun = demos.begin(out)
    _quiet_hosts()
    with _resumable("demo", "--out", str(out)), threads(1):
        prepared = demos.prepare()
        cost = demos.estimate(prepared)
        parts = " and ".join(f"{len(one.model.registry):,} {name}" for name, one in prepared.items())
        examples = len(prepared["rows"].data)
        typer.echo(
            f"{parts} of the bundled model 'domains', {examples} Python texts of "
            f"{prepared['rows'].data.length} tokens: attribute, leave-one-out and gradient x parameter.\n"
            f"Estimate: at most {cost.rows:,} forward rows, a gradient counted as three, about "
            f"{progress.duration(cost.seconds)} on this machine."
        )
        if begun:
            typer.echo(f"Going on with what is in {out}, which is not computed again; delete it to begin anew.")
        progress.show()
        found = demos.execute(prepared, out)
        page = demos.write_report(out / "report.html", prepared, found)
    typer.echo("\n" + "\n".join(demos.summary(prepared, found)))
    typer.echo("\nCorrelation of predicted with true outputs on held-out ablations:\n")
    typer.echo(_text(demos.table(found)))
    typer.echo(f"\nReport: {page}")


@app.command()
def run(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="What to run; see the documentation.")],
    out: Annotated[Path, typer.Option(help="Directory for results.")],
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped in --out.")] = False,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            help="Set a field of the configuration, as in --set data.count=50; may be repeated. The value is YAML, "
            "and a path in it is relative to the current directory.",
        ),
    ] = None,
) -> None:
    """Attribute, evaluate and diagnose as a configuration says."""
    from ablationlens.runs import config_file, summary
    from ablationlens.runs import running as runs
    from ablationlens.runs.overrides import OPTION, Override

    asked = config_file.load(config, [Override.parse(text, Path.cwd()) for text in changes or ()])
    runs.begin(asked, out, resume=resume, source=config)
    _quiet_hosts()
    again = [word for text in changes or () for word in (OPTION, text)]
    with _resumable("run", str(config), "--out", str(out), *again, "--resume"):
        prepared = runs.prepare(asked)
        progress.show()
        for line in summary.planned(prepared):
            typer.echo(line, err=True)
        results = runs.execute(prepared, out)
        page = runs.write_report(out / runs.REPORT, prepared, results)
    typer.echo("\n".join(summary.told(prepared, results)) + "\n")
    typer.echo(_text(results.scores.table()))
    typer.echo(f"\nReport: {page}")


@app.command()
def components(
    model: Annotated[str, typer.Argument(help="A bundled model, a Hugging Face directory, or a name on the hub.")],
    kind: Annotated[str | None, typer.Option(help="One kind; all that apply by default.")] = None,
    size: Annotated[int | None, typer.Option(help="Rows of a block, for kind row_block.")] = None,
    svd: Annotated[int | None, typer.Option(help="Parts of each matrix, for kind rank_one.")] = None,
) -> None:
    """Print which components a model has, by kind and module."""
    from ablationlens.adapters.dispatch import adapt
    from ablationlens.runs.config import KINDS, ModelConfig
    from ablationlens.runs.loading import open_model

    if kind is not None and kind not in KINDS:
        raise ConfigError(f"--kind {kind}: the kinds are {', '.join(KINDS)}")
    needs = {"row_block": size, "rank_one": svd}
    if kind is not None and needs.get(kind, 1) is None:
        raise ConfigError(f"--kind {kind} needs {OPTION_OF[kind]}, for example {OPTION_OF[kind]} 8")
    _quiet_hosts()
    adapter = adapt(open_model(ModelConfig(name=model, host="torch")).model)
    chosen = [kind] if kind is not None else [name for name in KINDS if needs.get(name, 1) is not None]
    tables: list[pd.DataFrame] = []
    for name in chosen:
        of_size, of_svd = (size if name == "row_block" else None), (svd if name == "rank_one" else None)
        try:
            tables.append(_counts(adapter.registry(name, size=of_size, svd=of_svd)))
        except InputError:
            if kind is not None:
                raise
    typer.echo(_text(_joined(tables)))
    left_out = [f"{name} with {option}" for name, option in OPTION_OF.items() if kind is None and name not in chosen]
    if left_out:
        typer.echo(f"\nCounted when asked for: {', '.join(left_out)}.")


def _counts(registry: Registry) -> pd.DataFrame:
    """Components of each module, and of all."""
    groups = registry.frame().groupby(["kind", "module"], sort=False)
    frame = groups.agg(layers=("layer", "nunique"), components=("index", "size")).reset_index()
    total = {"kind": frame["kind"][0], "module": "all", "layers": "", "components": len(registry)}
    return frame if len(frame) == 1 else _joined([frame, type(frame)([total])])


def _joined(tables: list[pd.DataFrame]) -> pd.DataFrame:
    import pandas as pd

    return pd.concat([table.astype(object) for table in tables], ignore_index=True)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Directory of a finished run or demo.")],
) -> None:
    """Write the report of a run again, from what its directory holds."""
    from ablationlens.runs import demo as demos
    from ablationlens.runs import running as runs

    if not folder.is_dir():
        raise ConfigError(f"there is no directory {folder}")
    page = folder / runs.REPORT
    if demos.is_demo(folder):
        several = demos.read(folder)
        _quiet_hosts()
        demos.write_report(page, demos.prepare(), several)
    else:
        asked, results = runs.read(folder)
        _quiet_hosts()
        runs.write_report(page, runs.prepare(asked), results)
    typer.echo(f"Report: {page}")


if __name__ == "__main__":
    sys.exit(main())
