"""``autoslim doctor``: what this machine has, and what is missing."""

import typer

from autoslim.cli import _out


def add(app: typer.Typer) -> None:
    app.command("doctor", help="Versions, cores, instruction sets, and what is missing. Example: autoslim doctor")(doctor)


def doctor() -> int:
    """Print what this machine and its packages offer; exit status 0 whatever is missing."""
    from autoslim import host, yamlfile

    facts = host.facts()
    _out.say(f"processor         {facts['processor']}, {facts['physical_cores']} physical cores for this process")
    if note := host.threads_note(host.own_cores(), False):
        _out.say(f"threads           {note}")
    _out.say(f"instruction sets  {', '.join(facts['instruction_sets']) or 'unknown'}")
    _out.say(f"system            {facts['system']}, Python {facts['python']}")
    missing = []
    for name, version in facts["versions"].items():
        _out.say(f"{name:<17} {version or 'MISSING'}")
        if version is None:
            missing.append(name)
    has = set(facts["instruction_sets"])
    if has and not has & {"avx512_vnni", "avx_vnni", "i8mm", "amx_int8"}:
        _out.say("warning: no integer dot-product instructions; int8 may be no faster than float here")
    for kind in ("search_spaces", "studies"):
        if not yamlfile.shipped(kind):
            missing.append(f"the shipped {kind}")
    for extra, absent in host.extras().items():
        state = (
            f"missing: {', '.join(absent)}; pip install 'autoslim[{extra}]', in a checkout pip install '.[{extra}]'"
            if absent
            else "installed"
        )
        _out.say(f"extra {extra:<11} {state}")
    for name in missing:
        _out.say(f"missing: {name} (pip install autoslim brings it)")
    return 1 if missing else 0
