%%% Federation, for roost_control: the streams to other servers, closing those of one pair, and the ping that alone
%%% proves that a link lives.
%%%
%%% ejabberd 23.01 has no way to list incoming s2s streams (get_info_s2s_connections(in) times out), and can close only
%%% all of them at once.
-module(roost_links).

-export([start/1, stop/1, sweep/0]).
-export([s2s_connections/1, close_s2s/1, ping/1]).
-export([authenticated_in/3, authenticated_out/2, closed_in/2, closed_out/2, received/1, sent/1]).

-include_lib("p1_xmpp/include/xmpp.hrl").

-define(LINKS, roost_links).     % {{Pid, Remote}, Link}
-define(TRAFFIC, roost_traffic). % {{Direction, Local, Remote}, seconds}; {{failed, Direction, Local, Remote}, Text}
-define(HOOKS, [{s2s_in_auth_result, authenticated_in}, {s2s_out_auth_result, authenticated_out},
                {s2s_in_closed, closed_in}, {s2s_out_closed, closed_out},
                {s2s_receive_packet, received}, {s2s_send_packet, sent}]).
-define(LONGEST_ERROR, 200).
-define(MOST_FAILURES, 2000).
%% All streams of a pair together may take so long to end; a dead peer's take as long as they are given.
-define(CLOSE_MS, 200).

start(Host) ->
    [ets:new(Table, [named_table, public, {write_concurrency, true}]) || Table <- [?LINKS, ?TRAFFIC]],
    [ejabberd_hooks:add(Hook, Host, ?MODULE, Function, 110) || {Hook, Function} <- ?HOOKS],
    ok.

stop(Host) ->
    [ejabberd_hooks:delete(Hook, Host, ?MODULE, Function, 110) || {Hook, Function} <- ?HOOKS],
    ok.

%% Forgets streams that have ended, and what was remembered of pairs that have none.
sweep() ->
    Pairs = [{D, L, R} || {_, #{direction := D, local := L, remote := R}} <- links()],
    Known = sets:from_list(Pairs, [{version, 2}]),
    [ets:delete(?TRAFFIC, Key) || {{_, _, _} = Key, _} <- ets:tab2list(?TRAFFIC), not sets:is_element(Key, Known)],
    bounded().

bounded() ->
    ets:info(?TRAFFIC, size) > ?MOST_FAILURES andalso ets:match_delete(?TRAFFIC, {{failed, '_', '_', '_'}, '_'}),
    ok.

%%% Hooks. Those of streams run in the stream's own process.

%% The mechanism is there until the hooks have run; dialback has none.
authenticated_in(#{lserver := Local} = State, true, Remote) ->
    Auth = case State of
               #{sasl_mech := <<"EXTERNAL">>} -> certificate;
               _ -> dialback
           end,
    remember(in, Auth, Local, Remote, State);
authenticated_in(State, false, _) ->
    State.

authenticated_out(#{db_verify := _} = State, _) ->
    State; % a stream that only asks whether a dialback key is true
%% mod_s2s_dialback takes db_enabled away when dialback was what succeeded.
authenticated_out(#{server := Local, remote_server := Remote} = State, true) ->
    Auth = case State of
               #{db_enabled := true} -> certificate;
               _ -> dialback
           end,
    remember(out, Auth, Local, Remote, State);
authenticated_out(State, _) ->
    State.

remember(Direction, Auth, Local, Remote, State) ->
    Address = case State of
                  #{ip := {Ip, _}} when is_tuple(Ip) -> misc:ip_to_list(Ip);
                  _ -> <<>>
              end,
    Link = #{direction => Direction, local => Local, remote => Remote, auth => Auth, address => Address,
             since => now_s(), encrypted => maps:get(stream_encrypted, State, false)},
    ets:insert(?LINKS, {{self(), Remote}, Link}),
    ets:insert(?TRAFFIC, {{Direction, Local, Remote}, now_s()}),
    State.

closed_in(#{lserver := Local, remote_server := Remote} = State, Reason) ->
    failed(in, Local, Remote, Reason),
    State;
closed_in(State, _) ->
    State.

closed_out(#{db_verify := _} = State, _) ->
    State;
closed_out(#{server := Local, remote_server := Remote} = State, Reason) ->
    failed(out, Local, Remote, Reason),
    State;
closed_out(State, _) ->
    State.

%% An end that both sides wanted is no failure; whether it was one is in the reason.
failed(Direction, Local, Remote, {stream, {out, #stream_error{}}}) ->
    ets:delete(?TRAFFIC, {failed, Direction, Local, Remote});
failed(Direction, Local, Remote, {stream, reset}) ->
    ets:delete(?TRAFFIC, {failed, Direction, Local, Remote});
failed(Direction, Local, Remote, Reason) ->
    bounded(),
    Text = try xmpp_stream_out:format_error(Reason) catch _:_ -> <<"an error without words">> end,
    ets:insert(?TRAFFIC, {{failed, Direction, Local, Remote}, string:slice(Text, 0, ?LONGEST_ERROR)}).

received({drop, State}) ->
    {drop, State};
received({Packet, State}) ->
    used(in, xmpp:get_to(Packet), xmpp:get_from(Packet), Packet),
    {Packet, State}.

sent(drop) ->
    drop;
sent(Packet) ->
    used(out, xmpp:get_from(Packet), xmpp:get_to(Packet), Packet),
    Packet.

%% Queries between two servers themselves are pings, ours or the peer's: they are no use of the link.
used(_, #jid{luser = <<>>, lresource = <<>>}, #jid{luser = <<>>, lresource = <<>>}, #iq{}) ->
    ok;
used(Direction, #jid{lserver = Local}, #jid{lserver = Remote}, _) ->
    ets:insert(?TRAFFIC, {{Direction, Local, Remote}, now_s()});
used(_, _, _, _) ->
    ok.

now_s() ->
    erlang:monotonic_time(millisecond) / 1000.

%% [{Pid, Link}] of the streams that live.
links() ->
    lists:filtermap(fun({{Pid, _} = Key, Link}) ->
                            case is_process_alive(Pid) of
                                true -> {true, {Pid, Link}};
                                false -> ets:delete(?LINKS, Key), false
                            end
                    end, ets:tab2list(?LINKS)).

%%% The calls.

s2s_connections(_) ->
    [shown(Link) || {_, Link} <- links()].

shown(#{direction := Direction, local := Local, remote := Remote, since := Since} = Link) ->
    Now = now_s(),
    Used = case ets:lookup(?TRAFFIC, {Direction, Local, Remote}) of
               [{_, At}] -> At;
               [] -> Since
           end,
    Error = case ets:lookup(?TRAFFIC, {failed, Direction, Local, Remote}) of
                [{_, Text}] -> Text;
                [] -> <<>>
            end,
    (maps:remove(since, Link))#{age_s => Now - Since, idle_s => Now - Used, error => Error}.

%% Outgoing streams come from ejabberd's own table, so those that are still dialling are closed too. They are taken
%% out of it first: from then on a stanza opens another stream, and none is lost in one that is ending.
close_s2s(#{<<"local">> := Local, <<"remote">> := Remote}) ->
    Out = [Pid || Pid <- ejabberd_s2s:get_connections_pids({Local, Remote}), is_process_alive(Pid)],
    In = [Pid || {Pid, #{direction := in, local := L, remote := R}} <- links(), L =:= Local, R =:= Remote],
    [mnesia:dirty_delete_object(Row) || Pid <- Out, Row <- mnesia:dirty_match_object({s2s, '_', Pid})],
    [ejabberd_s2s_out:stop_async(Pid) || Pid <- Out],
    [ejabberd_s2s_in:stop_async(Pid) || Pid <- In],
    Waiting = gone(Out ++ In),
    forgotten({Local, Remote}, 100),
    [ejabberd_s2s:route(Packet) || Packet <- Waiting],
    length(Out) + length(In).

%% ejabberd forgets a stream a moment after it has ended, and what is sent through it meanwhile is lost silently.
forgotten(_, 0) ->
    ok;
forgotten(Pair, Left) ->
    case lists:all(fun is_process_alive/1, ejabberd_s2s:get_connections_pids(Pair)) of
        true -> ok;
        false -> timer:sleep(10), forgotten(Pair, Left - 1)
    end.

%% A stream with a dead peer may take its time to write its last words; nothing waits for those. One that dials an
%% address where nobody is takes no orders until it gives up: what waits in its mailbox is given back.
gone(Pids) ->
    Watched = [{monitor(process, Pid), Pid} || Pid <- Pids],
    Deadline = erlang:monotonic_time(millisecond) + ?CLOSE_MS,
    lists:append([receive
                      {'DOWN', Watch, _, _, _} -> []
                  after max(0, Deadline - erlang:monotonic_time(millisecond)) -> killed(Watch, Pid)
                  end || {Watch, Pid} <- Watched]).

killed(Watch, Pid) ->
    Packets = case process_info(Pid, messages) of
                  {messages, Messages} -> [Packet || {route, Packet} <- Messages];
                  undefined -> []
              end,
    exit(Pid, kill),
    receive {'DOWN', Watch, _, _, _} -> ok after 1000 -> ok end,
    Packets.

%% XEP-0199 from the domain itself or a component. An error of the peer's own making is a round trip as well; those
%% that ejabberd makes itself for a link that fails are others.
ping(#{<<"remote">> := Remote, <<"wait_s">> := Wait} = Arguments) ->
    Local = maps:get(<<"local">>, Arguments, ejabberd_config:get_myname()),
    ejabberd_router:is_my_route(Local) orelse throw({refused, <<"there is no ", Local/binary, " here">>}),
    Ask = #iq{type = get, from = jid:make(Local), to = jid:make(Remote), sub_els = [#ping{}]},
    forgotten({Local, Remote}, 20),
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
