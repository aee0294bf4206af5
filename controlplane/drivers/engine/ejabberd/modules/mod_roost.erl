%%% What Roost adds inside ejabberd: options for the control channel, the list of authenticated s2s streams, the
%%% announcement of an external TURN service (XEP-0215), and the archive's expiry.
%%%
%%% ejabberd 23.01 has no way to list incoming s2s streams (get_info_s2s_connections(in) times out), cannot put a
%%% label into TURN user names, and deletes old archives only by command.
-module(mod_roost).

-behaviour(gen_mod).
-behaviour(gen_server).

-export([start/2, stop/1, reload/3, depends/2, mod_opt_type/1, mod_options/1, mod_doc/0]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2, terminate/2]).
-export([s2s_in/3, s2s_out/2, links/0, process_iq/1, disco/5]).

-include_lib("p1_xmpp/include/xmpp.hrl").

-define(LINKS, roost_links).
-define(FIRST_SWEEP_MS, 600000).
-define(SWEEP_MS, 21600000).

start(Host, Options) ->
    gen_mod:start_child(?MODULE, Host, Options).

stop(Host) ->
    gen_mod:stop_child(?MODULE, Host).

reload(_, _, _) ->
    ok. % options are read when they are needed

depends(_, _) ->
    [].

mod_opt_type(archive_days) ->
    econf:pos_int();
mod_opt_type(turn) ->
    econf:list(econf:options(#{host => econf:binary(), port => econf:port(), type => econf:enum([stun, turn, turns]),
                               transport => econf:enum([udp, tcp]), secret => econf:binary(),
                               label => econf:binary(), ttl_s => econf:pos_int()},
                             [{required, [host, port, type, transport, secret, label, ttl_s]}, {return, map}]));
mod_opt_type(_) ->
    econf:binary().

mod_options(_) ->
    [control_socket, probe_account, uploads, {archive_days, 365}, {turn, []}].

mod_doc() ->
    #{}.

init([Host, _]) ->
    process_flag(trap_exit, true),
    ?LINKS = ets:new(?LINKS, [named_table, public, {write_concurrency, true}]),
    ok = roost_accounts:init(Host),
    ok = roost_publish:start(Host),
    ejabberd_hooks:add(s2s_in_auth_result, Host, ?MODULE, s2s_in, 110),
    ejabberd_hooks:add(s2s_out_auth_result, Host, ?MODULE, s2s_out, 110),
    ejabberd_hooks:add(disco_local_features, Host, ?MODULE, disco, 50),
    gen_iq_handler:add_iq_handler(ejabberd_local, Host, ?NS_EXTDISCO_2, ?MODULE, process_iq),
    erlang:send_after(?FIRST_SWEEP_MS, self(), sweep),
    {ok, Host}.

handle_call(_, _, Host) ->
    {reply, ok, Host}.

handle_cast(_, Host) ->
    {noreply, Host}.

handle_info(sweep, Host) ->
    expire_archive(Host),
    _ = links(), % forgets streams that have ended
    erlang:send_after(?SWEEP_MS, self(), sweep),
    {noreply, Host};
handle_info(_, Host) ->
    {noreply, Host}.

terminate(_, Host) ->
    roost_publish:stop(Host),
    ejabberd_hooks:delete(s2s_in_auth_result, Host, ?MODULE, s2s_in, 110),
    ejabberd_hooks:delete(s2s_out_auth_result, Host, ?MODULE, s2s_out, 110),
    ejabberd_hooks:delete(disco_local_features, Host, ?MODULE, disco, 50),
    gen_iq_handler:remove_iq_handler(ejabberd_local, Host, ?NS_EXTDISCO_2).

expire_archive(Host) ->
    Days = gen_mod:get_module_opt(Host, ?MODULE, archive_days),
    Before = erlang:system_time(microsecond) - Days * 86400 * 1000000,
    ejabberd_sql:sql_query(Host, ["DELETE FROM archive WHERE timestamp < ", integer_to_list(Before)]).

%%% Authenticated s2s streams. Hooks run in the stream's own process.

%% The mechanism is there until the hooks have run; dialback has none.
s2s_in(#{lserver := Local} = State, true, Remote) ->
    Auth = case State of
               #{sasl_mech := <<"EXTERNAL">>} -> certificate;
               _ -> dialback
           end,
    remember(in, Auth, Local, Remote, State);
s2s_in(State, false, _) ->
    State.

s2s_out(#{db_verify := _} = State, _) ->
    State; % a stream that only asks whether a dialback key is true
%% mod_s2s_dialback takes db_enabled away when dialback was what succeeded.
s2s_out(#{server := Local, remote_server := Remote} = State, true) ->
    Auth = case State of
               #{db_enabled := true} -> certificate;
               _ -> dialback
           end,
    remember(out, Auth, Local, Remote, State);
s2s_out(State, _) ->
    State.

remember(Direction, Auth, Local, Remote, State) ->
    Address = case State of
                  #{ip := {Ip, _}} when is_tuple(Ip) -> misc:ip_to_list(Ip);
                  _ -> <<>>
              end,
    Link = #{direction => Direction, local => Local, remote => Remote, auth => Auth, address => Address,
             encrypted => maps:get(stream_encrypted, State, false)},
    ets:insert(?LINKS, {{self(), Remote}, Link}),
    State.

%% [{Pid, Link}] of the streams that live.
links() ->
    lists:filtermap(fun({{Pid, _} = Key, Link}) ->
                            case is_process_alive(Pid) of
                                true -> {true, {Pid, Link}};
                                false -> ets:delete(?LINKS, Key), false
                            end
                    end, ets:tab2list(?LINKS)).

%%% XEP-0215: TURN REST credentials, user name "expiry:label".

disco(empty, From, To, Node, Language) ->
    disco({result, []}, From, To, Node, Language);
disco({result, Features}, #jid{lserver = Host}, #jid{lserver = Host}, <<>>, _) ->
    {result, [?NS_EXTDISCO_2 | Features]};
disco(Found, _, _, _, _) ->
    Found.

process_iq(#iq{from = #jid{lserver = Other}, to = #jid{lserver = Host}, lang = Language} = Iq) when Other =/= Host ->
    xmpp:make_error(Iq, xmpp:err_forbidden(<<"Access denied by service policy">>, Language));
process_iq(#iq{type = get, to = #jid{lserver = Host}, sub_els = [#services{type = Type}]} = Iq) ->
    xmpp:make_iq_result(Iq, #services{list = offered(Host, fun(S) -> Type =:= undefined orelse
                                                                       Type =:= S#service.type end)});
process_iq(#iq{type = get, to = #jid{lserver = Host}, sub_els = [#credentials{services = [Wanted]}]} = Iq) ->
    Fits = fun(S) ->
                   S#service.restricted andalso S#service.host =:= Wanted#service.host andalso
                       S#service.type =:= Wanted#service.type andalso
                       lists:member(Wanted#service.port, [undefined, S#service.port])
           end,
    case offered(Host, Fits) of
        [] -> xmpp:make_error(Iq, xmpp:err_item_not_found());
        Found -> xmpp:make_iq_result(Iq, #credentials{services = Found})
    end;
process_iq(#iq{lang = Language} = Iq) ->
    xmpp:make_error(Iq, xmpp:err_bad_request(<<"Not a request of XEP-0215">>, Language)).

offered(Host, Fits) ->
    lists:filter(Fits, [service(S) || S <- gen_mod:get_module_opt(Host, ?MODULE, turn)]).

service(#{type := stun} = S) ->
    #service{host = maps:get(host, S), port = maps:get(port, S), type = stun, transport = maps:get(transport, S),
             restricted = false};
service(#{secret := Secret, label := Label, ttl_s := Ttl} = S) ->
    Expires = erlang:system_time(second) + Ttl,
    Name = <<(integer_to_binary(Expires))/binary, $:, Label/binary>>,
    #service{host = maps:get(host, S), port = maps:get(port, S), type = maps:get(type, S),
             transport = maps:get(transport, S), restricted = true, username = Name,
             password = base64:encode(crypto:mac(hmac, sha, Secret, Name)),
             expires = {Expires div 1000000, Expires rem 1000000, 0}}.
