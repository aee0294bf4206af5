%%% What Roost adds inside ejabberd: options for the control channel, the announcement of an external TURN service
%%% (XEP-0215), and the archive's expiry. Streams to other servers are followed in roost_links.
%%%
%%% ejabberd 23.01 cannot put a label into TURN user names, and deletes old archives only by command.
-module(mod_roost).

-behaviour(gen_mod).
-behaviour(gen_server).

-export([start/2, stop/1, reload/3, depends/2, mod_opt_type/1, mod_options/1, mod_doc/0]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2, terminate/2]).
-export([process_iq/1, disco/5, expire_archives/1]).

-include_lib("p1_xmpp/include/xmpp.hrl").

-define(FIRST_SWEEP_MS, 60000).
-define(SWEEP_MS, 3600000).
-define(EXPIRED_AT_ONCE, 500).

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
    [control_socket, probe_account, uploads, {archive_days, 365}, {turn, []}, {outage_url, <<>>}].

mod_doc() ->
    #{}.

init([Host, _]) ->
    process_flag(trap_exit, true),
    ok = roost_links:start(Host),
    ok = roost_accounts:init(Host),
    ok = roost_publish:start(Host),
    ok = roost_portable:start(Host),
    ok = roost_outage:start(Host),
    ejabberd_hooks:add(disco_local_features, Host, ?MODULE, disco, 50),
    gen_iq_handler:add_iq_handler(ejabberd_local, Host, ?NS_EXTDISCO_2, ?MODULE, process_iq),
    erlang:send_after(?FIRST_SWEEP_MS, self(), sweep),
    {ok, Host}.

handle_call(_, _, Host) ->
    {reply, ok, Host}.

handle_cast(_, Host) ->
    {noreply, Host}.

handle_info(sweep, Host) ->
    _ = expire(Host),
    roost_links:sweep(),
    erlang:send_after(?SWEEP_MS, self(), sweep),
    {noreply, Host};
handle_info(_, Host) ->
    {noreply, Host}.

terminate(_, Host) ->
    roost_publish:stop(Host),
    roost_portable:stop(Host),
    roost_outage:stop(Host),
    roost_links:stop(Host),
    ejabberd_hooks:delete(disco_local_features, Host, ?MODULE, disco, 50),
    gen_iq_handler:remove_iq_handler(ejabberd_local, Host, ?NS_EXTDISCO_2).

%% For roost_control: now, and how many there were.
expire_archives(_) ->
    expire(ejabberd_config:get_myname()).

expire(Host) ->
    Days = gen_mod:get_module_opt(Host, ?MODULE, archive_days),
    expire(Host, integer_to_list(erlang:system_time(microsecond) - Days * 86400 * 1000000), 0).

%% Portions, so that nobody waits for the database until all are gone.
expire(Host, Before, Total) ->
    case ejabberd_sql:sql_query(Host, ["DELETE FROM archive WHERE id IN (SELECT id FROM archive WHERE timestamp < ", Before,
                                       " ORDER BY timestamp LIMIT ", integer_to_list(?EXPIRED_AT_ONCE), ")"]) of
        {updated, ?EXPIRED_AT_ONCE} -> expire(Host, Before, Total + ?EXPIRED_AT_ONCE);
        {updated, Last} -> Total + Last;
        _ -> Total
    end.

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
