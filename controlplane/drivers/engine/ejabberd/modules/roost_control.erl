%%% The control channel: JSON calls on a unix socket, each with a 4-byte big-endian length before it.
%%%
%%% Asks {"name": ..., "domain": ..., "arguments": {...}}.
%%% Answers {"value": ...} or {"error": text, "kind": "invalid"|"refused"|"failed"}. It evaluates nothing. The directory of the socket decides who may call; each connection is served by a
%%% process of its own. The calls are in roost_accounts, roost_rooms, roost_roll, roost_server, roost_links
%%% and roost_portable*.
-module(roost_control).

-behaviour(gen_server).

-export([start_link/0, init/1, handle_call/3, handle_cast/2, handle_info/2, terminate/2]).
-export([accept_loop/1, serve/1]).

-define(IDLE_MS, 60000).
-define(LARGEST_CALL, 33554432). % a member's offline messages and avatars travel in one

start_link() ->
    gen_server:start_link({local, ?MODULE}, ?MODULE, [], []).

init([]) ->
    process_flag(trap_exit, true),
    Path = binary_to_list(gen_mod:get_module_opt(ejabberd_config:get_myname(), mod_roost, control_socket)),
    %% Bound under another name and moved: when the socket is there, it has its mode and accepts.
    New = Path ++ ".new",
    _ = file:delete(New),
    {ok, Listener} = gen_tcp:listen(0, [binary, {ifaddr, {local, New}}, {packet, 4}, {packet_size, ?LARGEST_CALL},
                                        {active, false}, {backlog, 128}]),
    ok = file:change_mode(New, 8#660),
    ok = file:rename(New, Path),
    Acceptor = spawn_link(?MODULE, accept_loop, [Listener]),
    {ok, #{path => Path, listener => Listener, acceptor => Acceptor}}.

handle_call(_, _, State) ->
    {reply, ok, State}.

handle_cast(_, State) ->
    {noreply, State}.

handle_info({'EXIT', Acceptor, Reason}, #{acceptor := Acceptor} = State) ->
    {stop, Reason, State};
handle_info(_, State) ->
    {noreply, State}.

terminate(_, #{path := Path}) ->
    file:delete(Path).

accept_loop(Listener) ->
    case gen_tcp:accept(Listener) of
        {ok, Socket} ->
            Pid = spawn(?MODULE, serve, [Socket]),
            ok = gen_tcp:controlling_process(Socket, Pid),
            Pid ! go;
        {error, closed} ->
            exit(closed);
        {error, _} ->
            timer:sleep(100) % out of file descriptors: they come back
    end,
    accept_loop(Listener).

serve(Socket) ->
    receive go -> ok after 5000 -> exit(normal) end,
    serve_calls(Socket).

serve_calls(Socket) ->
    case gen_tcp:recv(Socket, 0, ?IDLE_MS) of
        {ok, Packet} ->
            case gen_tcp:send(Socket, answer(Packet)) of
                ok -> serve_calls(Socket);
                {error, _} -> gen_tcp:close(Socket) % who asked did not wait
            end;
        {error, _} ->
            gen_tcp:close(Socket)
    end.

answer(Packet) ->
    jiffy:encode(
      try
          #{<<"name">> := Name, <<"domain">> := Domain, <<"arguments">> := Arguments} =
              jiffy:decode(Packet, [return_maps]),
          %% A hostile neighbour can put a link to our socket where its own should be.
          Domain =:= ejabberd_config:get_myname() orelse throw({refused, <<"this is another domain's server">>}),
          {Module, Function} = where(Name),
          #{value => Module:Function(Arguments)}
      catch
          throw:{refused, Text} ->
              #{error => Text, kind => refused};
          throw:{invalid, Text} ->
              #{error => Text, kind => invalid};
          Class:Reason:Stack ->
              %% Not the arguments: they may hold a password. The stack's first entry may, too.
              logger:error("roost: a call failed: ~p at ~p", [kind_of(Class, Reason), places(Stack)]),
              #{error => <<"internal error, see ejabberd's log">>, kind => failed}
      end, [force_utf8]).

kind_of(Class, Reason) when is_atom(Reason) -> {Class, Reason};
kind_of(Class, Reason) when is_tuple(Reason), is_atom(element(1, Reason)) -> {Class, element(1, Reason)};
kind_of(Class, _) -> Class.

places(Stack) ->
    [{M, F, proplists:get_value(line, Info)} || {M, F, _, Info} <- Stack].

where(Name) ->
    case Name of
        <<"health">> -> {roost_server, health};
        <<"reload">> -> {roost_server, reload};
        <<"usage">> -> {roost_server, usage};
        <<"s2s_connections">> -> {roost_links, s2s_connections};
        <<"close_s2s">> -> {roost_links, close_s2s};
        <<"ping">> -> {roost_links, ping};
        <<"purge_dns_cache">> -> {roost_server, purge_dns_cache};
        <<"create_account">> -> {roost_accounts, create};
        <<"set_password">> -> {roost_accounts, set_password};
        <<"set_account_enabled">> -> {roost_accounts, set_enabled};
        <<"delete_account">> -> {roost_accounts, delete};
        <<"list_accounts">> -> {roost_accounts, list};
        <<"list_rooms">> -> {roost_rooms, list};
        <<"get_room">> -> {roost_rooms, get};
        <<"create_room">> -> {roost_rooms, create};
        <<"set_room_settings">> -> {roost_rooms, set_settings};
        <<"set_affiliation">> -> {roost_rooms, set_affiliation};
        <<"delete_room">> -> {roost_rooms, delete};
        <<"roll">> -> {roost_roll, roll};
        <<"export_accounts">> -> {roost_portable, accounts};
        <<"export_user">> -> {roost_portable_user, export};
        <<"export_archive">> -> {roost_portable_archive, export};
        <<"export_rooms">> -> {roost_portable, rooms};
        <<"export_room">> -> {roost_portable_room, export};
        <<"export_uploads">> -> {roost_portable, uploads};
        <<"import_user">> -> {roost_portable_arrival, import};
        <<"import_archive">> -> {roost_portable_archive, import};
        <<"expire_archives">> -> {mod_roost, expire_archives};
        <<"import_room">> -> {roost_portable_room, import};
        _ -> throw({refused, <<"there is no such call">>})
    end.
