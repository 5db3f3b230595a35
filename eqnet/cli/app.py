"""The commands of `eqnet`. Only typer is imported here, so that `eqnet --help` stays fast."""

from __future__ import annotations

import typer

from eqnet.cli.commands import demo
from eqnet.cli.commands.judging import bench, compare, gate, inspect, report, verify
from eqnet.cli.commands.making import evaluate, explain, export, quantize, search, train
from eqnet.cli.commands.targets import profile_device, profiles
from eqnet.cli.helptext import page
from eqnet.spec.version import __version__

HELP = """One trained network to every piece of hardware.

An elastic supernet (EQ-Net, arXiv 2308.07650) serves every hardware profile without retraining:
search the best subnet for a target, export it in the form the target runs fastest, verify it
in the real runtime, and measure its latency."""

EPILOG = """\b
[bold]Start here[/bold]
  eqnet inspect model.onnx                any ONNX file: what runs in int8, and why not
  eqnet demo                              every built-in profile, end to end
  eqnet quantize --help                   your own network, end to end
  eqnet export --profile tensorrt_int8    one artifact, from the bundled net
  eqnet verify artifacts/tensorrt_int8    check it against PyTorch

\b
[bold]Exit codes[/bold]
   0  success                      8  no subnet meets the budget
   1  unexpected failure           9  output cannot be written
   2  wrong use of a command      10  an optional package is missing
   3  wrong profile or recipe     11  verification failed
   4  wrong supernet or subnet    12  latency regression
   5  wrong data                  13  training's loss is no number
   6  wrong artifact             130  interrupted
   7  model cannot be captured   141  the reader of the output went away
                                 143  terminated

Set EQNET_DEBUG=1 to see the traceback of a failure."""

app = typer.Typer(
    name="eqnet",
    help=page(HELP),
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(profiles.app, name="profiles")
app.command("inspect", help=page(inspect.HELP))(inspect.inspect)
app.command("quantize", help=page(quantize.HELP))(quantize.quantize)
app.command("train", help=page(train.HELP))(train.train)
app.command("eval", help=page(evaluate.HELP))(evaluate.evaluate)
app.command("search", help=page(search.HELP))(search.search)
app.command("explain", help=page(explain.HELP))(explain.explain)
app.command("export", help=page(export.HELP))(export.export)
app.command("verify", help=page(verify.HELP))(verify.verify)
app.command("profile-device", help=page(profile_device.HELP))(profile_device.profile_device)
app.command("bench", help=page(bench.HELP))(bench.bench)
app.command("compare", help=page(compare.HELP))(compare.compare)
app.command("gate", help=page(gate.HELP))(gate.gate)
app.command("report", help=page(report.HELP))(report.report)
app.command("demo", help=page(demo.HELP))(demo.demo)


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"eqnet {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_show_version, is_eager=True, help="Print the version."
    ),
) -> None:
    del version  # handled by its callback
