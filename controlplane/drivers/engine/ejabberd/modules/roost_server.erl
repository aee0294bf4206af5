%%% The server as a whole and its federation, for roost_control.
-module(roost_server).

-export([health/1, reload/1, usage/1, s2s_connections/1, close_s2s/1, ping/1, purge_dns_cache/1]).

-include_lib("p1_xmpp/include/xmpp.hrl").

health(_) ->
    {Uptime, _} = statistics(wall_clock),
    #{version => <<"ejabberd ", (ejabberd_option:version())/binary>>,
      uptime_s => Uptime / 1000,
      sessions => ejabberd_sm:get_vh_session_number(host())}.

reload(_) ->
    case ejabberd_config:reload() of
        ok -> true;
        Error -> throw({refused, unicode:characters_to_binary(ejabberd_config:format_error(Error))})
    end.

usage(_) ->
    Probe = gen_mod:get_module_opt(host(), mod_roost, probe_account),
    Online = lists:usort([U || {U, _, _} <- ejabberd_sm:get_vh_session_list(host()), U =/= Probe]),
    Uploads = gen_mod:get_module_opt(host(), mod_roost, uploads),
    #{accounts => number("SELECT count(*) FROM users") -
          case ejabberd_auth:user_exists(Probe, host()) of true -> 1; false -> 0 end,
      online => length(Online),
      rooms => length(roost_rooms:names()),
      archive_messages => number("SELECT count(*) FROM archive"),
      upload_bytes => filelib:fold_files(Uploads, ".*", true, fun(File, Sum) -> Sum + filelib:file_size(File) end, 0)}.

number(Query) ->
    {selected, _, [[Number]]} = ejabberd_sql:sql_query(host(), Query),
    if is_binary(Number) -> binary_to_integer(Number); true -> Number end.

s2s_connections(_) ->
    [Link || {_, Link} <- mod_roost:links()].

%% Outgoing streams come from ejabberd's own table, so those that are still dialling are closed too.
close_s2s(#{<<"local">> := Local, <<"remote">> := Remote}) ->
    Out = [Pid || Pid <- ejabberd_s2s:get_connections_pids({Local, Remote}), is_process_alive(Pid)],
    In = [Pid || {Pid, #{direction := in, local := L, remote := R}} <- mod_roost:links(), L =:= Local, R =:= Remote],
    [ejabberd_s2s_out:stop_async(Pid) || Pid <- Out],
    [ejabberd_s2s_in:stop_async(Pid) || Pid <- In],
    gone(Out ++ In),
    forgotten({Local, Remote}, 100),
    length(Out) + length(In).

%% ejabberd forgets a stream a moment after it has ended, and what is sent through it meanwhile is lost silently.
forgotten(_, 0) ->
    ok;
forgotten(Pair, Left) ->
    case lists:all(fun is_process_alive/1, ejabberd_s2s:get_connections_pids(Pair)) of
        true -> ok;
        false -> timer:sleep(10), forgotten(Pair, Left - 1)
    end.

%% A stream with a dead peer may take its time to write its last words; nothing waits for those.
gone(Pids) ->
    Watched = [{monitor(process, Pid), Pid} || Pid <- Pids],
    [receive {'DOWN', Watch, _, _, _} -> ok after 1000 -> exit(Pid, kill) end || {Watch, Pid} <- Watched].

%% XEP-0199 from the domain itself. An error of the peer's own making is a round trip as well; those that
%% ejabberd makes itself for a link that fails are others.
ping(#{<<"remote">> := Remote, <<"wait_s">> := Wait}) ->
    Ask = #iq{type = get, from = jid:make(host()), to = jid:make(Remote), sub_els = [#ping{}]},
    forgotten({host(), Remote}, 20),
    Start = erlang:monotonic_time(microsecond),
    Reference = make_ref(),
    ejabberd_router:route_iq(Ask, Reference, self(), max(1, round(Wait * 1000))),
    receive
        {iq_reply, #iq{type = result}, Reference} ->
            took(Start);
        {iq_reply, #iq{type = error} = Answer, Reference} ->
            case xmpp:get_error(Answer) of
                #stanza_error{reason = Reason} when Reason =:= 'service-unavailable';
                                                    Reason =:= 'feature-not-implemented' ->
                    took(Start);
                #stanza_error{reason = Reason} = Error ->
                    #{error => said(Reason, xmpp:get_text(Error#stanza_error.text))};
                _ ->
                    #{error => <<"an error without a reason">>}
            end;
        {iq_reply, timeout, Reference} ->
            #{error => <<"time-out">>}
    after round(Wait * 1000) + 1000 ->
        #{error => <<"time-out">>}
    end.

took(Start) ->
    #{seconds => (erlang:monotonic_time(microsecond) - Start) / 1000000}.

said(Reason, Text) when is_atom(Reason) ->
    <<(atom_to_binary(Reason))/binary, " ", Text/binary>>;
said(_, Text) ->
    Text.

purge_dns_cache(_) ->
    ok = inet_db:clear_cache(),
    true.

host() ->
    ejabberd_config:get_myname().
