%%% Starts ejabberd in this node and opens the control channel when it accepts clients.
%%%
%%% The node has no name, so it opens no distribution port, needs no epmd and no cookie, and its database can be
%%% moved to another host. If ejabberd does not start or ends, the whole process ends: the supervisor outside
%%% decides what is next. SIGTERM is Erlang's own: it ends by init:stop().
-module(roost).

-export([start/0, run/0, compile_all/2, filter/2]).

%% What ejabberd starts; applications that it includes or starts by itself on the way.
-define(APPLICATIONS, [ejabberd, inets, jiffy, os_mon, p1_acme, sqlite3]).
-define(MODULES_AT_ONCE, 64).

%% Sources come with the configuration (ROOST_MODULES) and are compiled when they or the versions have changed,
%% into ROOST_EBIN, from where this module was loaded unless it is the first start.
start() ->
    Sources = os:getenv("ROOST_MODULES"),
    Beams = os:getenv("ROOST_EBIN"),
    case compile_all(Sources, Beams) of
        unchanged ->
            ok;
        compiled ->
            {module, _} = code:load_file(?MODULE)
    end,
    ?MODULE:run().

run() ->
    ok = application:set_env(kernel, inet_default_connect_options, connect_options()),
    preload(roost_preload:modules()),
    _ = lists:foldl(fun load_lean/2, [kernel, stdlib], ?APPLICATIONS),
    ok = logger:add_primary_filter(roost, {fun ?MODULE:filter/2, []}),
    case application:ensure_all_started(ejabberd, permanent) of
        {ok, _} ->
            open();
        {error, Reason} ->
            failed(Reason)
    end.

%% Of all connections that are made here, which are those to peers. ejabberd acknowledges nothing on s2s: what is
%% written into a dead link is lost, so it should not live long. The kernel asks an idle one whether it is there, after
%% 5 s and then every second, and gives one up in which nothing has moved for 10 s (tcp(7), Linux' numbers).
connect_options() ->
    Tcp = [{4, 5}, {5, 1}, {6, 8}, {18, 10_000}], % TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT, TCP_USER_TIMEOUT
    [{keepalive, true} | [{raw, 6, Option, <<Value:32/native>>} || {Option, Value} <- Tcp]].

open() ->
    Child = {roost_control, {roost_control, start_link, []}, permanent, 5000, worker, [roost_control]},
    case supervisor:start_child(ejabberd_sup, Child) of
        {ok, _} ->
            ok;
        {error, Reason} ->
            failed(Reason)
    end.

failed(Reason) ->
    io:format(standard_error, "roost: ejabberd did not start: ~tp~n", [Reason]),
    halt(1).

%% Compile each source of the directory into the other one. The stamp is written last: whoever is killed on the
%% way begins again.
compile_all(Sources, Beams) ->
    Files = lists:sort(filelib:wildcard(filename:join(Sources, "*.erl"))),
    Include = filename:join(code:lib_dir(ejabberd), "include"),
    Stamp = stamp([[code:lib_dir(A), $\n] || A <- [ejabberd, p1_xmpp, kernel]], Files),
    StampFile = filename:join(Beams, "stamp"),
    case file:read_file(StampFile) of
        {ok, Stamp} ->
            unchanged;
        _ ->
            ok = filelib:ensure_dir(StampFile),
            Options = [deterministic, report_errors, {i, Include}, {outdir, Beams}],
            [{ok, _} = compile:file(File, Options) || File <- Files],
            ok = patch_resolver(Beams),
            ok = file:write_file(StampFile, Stamp),
            compiled
    end.

patch_resolver(Beams) ->
    true = code:add_patha(Beams),
    {Module, Beam} = roost_resolver:patched(),
    file:write_file(filename:join(Beams, atom_to_list(Module) ++ ".beam"), Beam).

stamp(Versions, Files) ->
    Texts = [element(2, {ok, _} = file:read_file(File)) || File <- Files],
    binary:encode_hex(crypto:hash(sha256, [Versions | Texts])).

%% Loading in batches lets one switch of code serve many modules, which saves a quarter of the CPU time of a
%% start. What is missing is left to ejabberd to complain about.
preload([]) ->
    ok;
preload(Modules) ->
    {Some, Rest} = lists:split(min(?MODULES_AT_ONCE, length(Modules)), Modules),
    _ = code:ensure_modules_loaded(Some),
    preload(Rest).

%% Load an application and all it needs without their lists of modules: ejabberd would look for each of these on
%% the disk after its start, for half a second of CPU time, only to tell that none is missing.
load_lean(Application, Loaded) ->
    File = code:where_is_file(atom_to_list(Application) ++ ".app"),
    case lists:member(Application, Loaded) orelse File =:= non_existing of
        true ->
            Loaded;
        false ->
            {ok, [{application, Application, Keys}]} = file:consult(File),
            _ = application:load({application, Application, lists:keystore(modules, 1, Keys, {modules, []})}),
            lists:foldl(fun load_lean/2, [Application | Loaded],
                        [A || Kind <- [applications, included_applications], A <- proplists:get_value(Kind, Keys, [])])
    end.

%% mod_host_meta looks for listeners of the module ejabberd_http by name, does not know that ours hands on to
%% it, and cries "critical".
filter(#{meta := #{mfa := {mod_host_meta, report_hostmeta_listener, _}}}, _) ->
    stop;
filter(_, _) ->
    ignore.
