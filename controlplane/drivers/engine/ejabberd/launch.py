"""How ejabberd is started: Erlang itself, in the foreground, as the tenant's user.

Debian's ``ejabberdctl`` insists on the user ``ejabberd`` and on a named node; neither is needed. The node has
no name, therefore no port, no cookie and no epmd. What happens after Erlang is up is ``modules/roost.erl``.
"""

from __future__ import annotations

from controlplane.drivers.engine.ejabberd import config, erlang_text
from controlplane.values.bundle import Program
from controlplane.values.spec import InstanceSpec

ERLANG = "/usr/bin/erl"

#: One scheduler each and no busy waiting: an instance is idle nearly always, and there are many.
EMULATOR = (
    *("+S", "1:1", "+SDcpu", "1:1", "+SDio", "1", "+A", "1", "+sbwt", "none", "+sbwtdcpu", "none", "+sbwtdio", "none"),
    *("+Q", "8192", "+P", "65536"),
    # Smaller pieces from the system: 6 MB less of a start's memory stay behind (13 MB after the first one).
    *("+MHlmbcs", "512", "+MBlmbcs", "512", "+MElmbcs", "256", "+MSlmbcs", "256", "+MLlmbcs", "256"),
)
#: Constant text. Paths come by the environment, so nothing is ever quoted into it.
BOOTSTRAP = (
    '[Ebin | _] = filelib:wildcard("/usr/lib/*-linux-gnu/ejabberd-*-*/ebin")'
    ' ++ filelib:wildcard("/usr/lib/*-linux-gnu/ejabberd-*/ebin"),'
    ' true = code:add_patha(Ebin), _ = code:add_patha(os:getenv("ROOST_EBIN")),'
    " case code:ensure_loaded(roost) of {module, roost} -> ok; _ ->"
    ' {ok, roost, Beam} = compile:file(filename:join(os:getenv("ROOST_MODULES"), "roost"), [binary, report_errors]),'
    ' {module, roost} = code:load_binary(roost, "roost.beam", Beam) end,'
    " roost:start()."
)


def program(spec: InstanceSpec) -> Program:
    """The engine's process."""
    paths = spec.paths
    return Program(
        argv=(
            *(ERLANG, "-noinput", "-boot", "no_dot_erlang", *EMULATOR),
            *("-mnesia", "dir", erlang_text.quote(str(paths.data / "mnesia"))),
            *("-eval", BOOTSTRAP),
        ),
        env=(
            ("EJABBERD_CONFIG_PATH", str(paths.root / config.CONFIG_FILE)),
            ("EJABBERD_LOG_PATH", str(paths.log / "ejabberd.log")),
            ("ERL_CRASH_DUMP_SECONDS", "0"),
            ("ERL_INETRC", str(paths.root / config.INETRC_FILE)),
            ("HOME", str(paths.root)),
            ("LANG", "C.UTF-8"),
            ("ROOST_EBIN", str(paths.data / "ebin")),
            ("ROOST_MODULES", str(paths.root / config.MODULE_DIR)),
        ),
        memory_bytes=spec.limits.memory_bytes,
        open_files=spec.limits.open_files,
        stop_wait_s=20,
        ready_timeout_s=60,
    )
