"""Find the artefacts that a command is asked for, and the scale of each."""

from dataclasses import replace

from results.artefact_file import SchemaError, nearest, read_artefact
from results.schema import Artefact
from scripts.cli.parser import CONFIG_DIR, Request
from scripts.sweep.rehearsed import with_rehearsal
from tasks.engine.errors import UserError
from tasks.engine.fake import SCALE as REHEARSAL
from tasks.engine.terminal import say


def known_artefacts() -> list[str]:
    """Return the names of configs/artefact/*.yaml."""
    return sorted(path.stem for path in (CONFIG_DIR / "artefact").glob("*.yaml"))


def load_artefact(name: str) -> Artefact:
    """Return configs/artefact/<name>.yaml, checked.
    Raises UserError if it does not exist or one of its keys is unknown.
    """
    if name not in known_artefacts():
        raise UserError(f"artefact {name!r} is unknown{nearest(name, known_artefacts())}")
    try:
        artefact = read_artefact(CONFIG_DIR / "artefact" / f"{name}.yaml")
    except SchemaError as error:
        raise UserError(str(error)) from None
    scales = sorted(path.stem for path in (CONFIG_DIR / "scale").glob("*.yaml"))
    if unknown := [scale for scale in artefact.scales if scale not in scales]:
        raise UserError(f"{artefact.file}: scale {unknown[0]} is unknown{nearest(unknown[0], scales)}")
    return artefact


def asked_for(request: Request) -> list[tuple[Artefact, Request]]:
    """Return the named artefacts, each with its request. Without names, return all that have the scale."""
    found = map(load_artefact, dict.fromkeys(request.names) or known_artefacts())
    every = map(with_rehearsal, found) if request.options["scale"] == REHEARSAL else found
    if request.names:
        return [(artefact, at_own_scale(artefact, request)) for artefact in every]
    return [(artefact, request) for artefact in every if request.options["scale"] in artefact.scales]


def at_own_scale(artefact: Artefact, request: Request) -> Request:
    """Return the request at the artefact's first scale if it lacks the default one and none is asked for.
    Report this in one line.
    """
    if "scale" in request.given or request.options["scale"] in artefact.scales:
        return request
    own, default = next(iter(artefact.scales)), request.options["scale"]
    say(f"{artefact.name} has no {default} scale: scale={own}")
    return replace(request, given={"scale": own} | request.given, options=request.options | {"scale": own})
