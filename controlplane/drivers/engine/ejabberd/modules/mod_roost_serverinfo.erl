%%% XEP-0485: which servers this one talks with, published for everybody because the tenant wants it. A module of its
%%% own, loaded only then; ejabberd 23.01 has none.
%%%
%%% The node is on the domain itself, since a service of its own would want a name in DNS and in the certificate.
%%% mod_pubsub keeps it; nothing else of mod_pubsub can be asked of the domain.
-module(mod_roost_serverinfo).

-behaviour(gen_mod).
-behaviour(gen_server).

-export([start/2, stop/1, reload/3, depends/2, mod_opt_type/1, mod_options/1, mod_doc/0]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2, terminate/2]).
-export([features/5, identity/5, items/5, info/5, process_iq/1]).

-include_lib("p1_xmpp/include/xmpp.hrl").

-define(NS, <<"urn:xmpp:serverinfo:0">>).
-define(NODE, <<"serverinfo">>).
-define(ITEM, <<"current">>).
-define(FIRST_MS, 1000).
%% A peer's wish is asked for again after so many rounds; more than MOST_ASKED wait for the next.
-define(ROUNDS, 10).
-define(MOST_ASKED, 100).
-define(ANSWER_MS, 10000).
-define(HOOKS, [{disco_local_features, features, 60}, {disco_local_identity, identity, 60},
                {disco_local_items, items, 60}, {disco_info, info, 105}]). % mod_disco's form is made at 100

start(Host, Options) ->
    gen_mod:start_child(?MODULE, Host, Options).

stop(Host) ->
    gen_mod:stop_child(?MODULE, Host).

reload(_, _, _) ->
    ok. % the option is read in each round

depends(_, _) ->
    [{mod_disco, hard}, {mod_pubsub, hard}, {mod_roost, hard}].

mod_opt_type(every_s) ->
    econf:pos_int().

mod_options(_) ->
    [{every_s, 180}].

mod_doc() ->
    #{}.

init([Host, _]) ->
    process_flag(trap_exit, true),
    Options = [{access_model, open}, {max_items, 1}, {send_last_published_item, never}, {type, ?NS}],
    mod_pubsub:create_node(Host, Host, ?NODE, jid:make(Host), <<"flat">>, all, Options), % or it is there
    %% answers: peer -> {seconds, whether it wants to be named}; waiting: reference -> peer
    State = publish(#{host => Host, answers => #{}, waiting => #{}, published => none}), % over what may be there
    [ejabberd_hooks:add(Hook, Host, ?MODULE, Function, At) || {Hook, Function, At} <- ?HOOKS],
    gen_iq_handler:add_iq_handler(ejabberd_local, Host, ?NS_PUBSUB, ?MODULE, process_iq),
    erlang:send_after(?FIRST_MS, self(), refresh),
    {ok, State}.

handle_call(_, _, State) ->
    {reply, ok, State}.

handle_cast(_, State) ->
    {noreply, State}.

handle_info(refresh, #{host := Host} = State) ->
    erlang:send_after(every_s(Host) * 1000, self(), refresh),
    {noreply, published_if_known(asked(State))};
handle_info({iq_reply, Reply, Reference}, #{answers := Answers, waiting := Waiting} = State) ->
    case maps:take(Reference, Waiting) of
        {Peer, Rest} ->
            Known = case Answers of
                        #{Peer := {At, _}} -> Answers#{Peer => {At, wants(Reply)}};
                        _ -> Answers
                    end,
            {noreply, published_if_known(State#{answers => Known, waiting => Rest})};
        error ->
            {noreply, State}
    end;
handle_info(_, State) ->
    {noreply, State}.

terminate(_, #{host := Host}) ->
    gen_iq_handler:remove_iq_handler(ejabberd_local, Host, ?NS_PUBSUB),
    [ejabberd_hooks:delete(Hook, Host, ?MODULE, Function, At) || {Hook, Function, At} <- ?HOOKS],
    ok.

every_s(Host) ->
    gen_mod:get_module_opt(Host, ?MODULE, every_s).

%%% What is published.

%% Peer -> directions of the streams that the domain itself has with it.
links(Host) ->
    Word = fun(in) -> <<"incoming">>; (out) -> <<"outgoing">> end,
    lists:foldl(fun(#{local := Local, remote := Peer, direction := Direction}, Found) when Local =:= Host ->
                        maps:update_with(Peer, fun(Others) -> [Word(Direction) | Others] end, [Word(Direction)], Found);
                   (_, Found) ->
                        Found
                end, #{}, roost_links:s2s_connections(#{})).

asked(#{host := Host, answers := Answers, waiting := Waiting} = State) ->
    Found = links(Host),
    Now = erlang:monotonic_time(second),
    Known = maps:with(maps:keys(Found), Answers),
    Due = [Peer || Peer <- maps:keys(Found),
                   case Known of
                       #{Peer := {At, _}} -> Now - At >= ?ROUNDS * every_s(Host);
                       _ -> true
                   end],
    Asked = [{ask(Host, Peer), Peer} || Peer <- lists:sublist(Due, ?MOST_ASKED)],
    State#{answers => lists:foldl(fun({_, Peer}, All) -> All#{Peer => {Now, false}} end, Known, Asked),
           waiting => maps:merge(Waiting, maps:from_list(Asked))}.

ask(Host, Peer) ->
    Reference = make_ref(),
    Iq = #iq{type = get, from = jid:make(Host), to = jid:make(Peer), sub_els = [#disco_info{}]},
    ejabberd_router:route_iq(Iq, Reference, self(), ?ANSWER_MS),
    Reference.

wants(#iq{type = result} = Reply) ->
    case try xmpp:get_subtag(Reply, #disco_info{}) catch _:_ -> false end of
        #disco_info{features = Features} -> lists:member(?NS, Features);
        _ -> false
    end;
wants(_) ->
    false.

published_if_known(#{waiting := Waiting} = State) when map_size(Waiting) =:= 0 ->
    publish(State);
published_if_known(State) ->
    State.

publish(#{host := Host, published := Before} = State) ->
    Payload = payload(State),
    case Payload =:= Before orelse
        mod_pubsub:publish_item(Host, Host, ?NODE, jid:make(Host), ?ITEM, [Payload])
    of
        true -> State;
        {result, _} -> State#{published => Payload};
        _ -> State % the next round tries again
    end.

%% In an order that tells nothing of those without a name: the others first, these by their streams alone.
payload(#{host := Host, answers := Answers}) ->
    Entries = lists:sort([case Answers of
                              #{Peer := {_, true}} -> {0, Peer, lists:sort(Directions)};
                              _ -> {1, <<>>, lists:sort(Directions)}
                          end || {Peer, Directions} <- maps:to_list(links(Host))]),
    Federation = #xmlel{name = <<"federation">>, children = [remote(Entry) || Entry <- Entries]},
    #xmlel{name = <<"serverinfo">>, attrs = [{<<"xmlns">>, ?NS}],
           children = [#xmlel{name = <<"domain">>, attrs = [{<<"name">>, Host}], children = [Federation]}]}.

remote({_, Name, Directions}) ->
    #xmlel{name = <<"remote-domain">>, attrs = [{<<"name">>, Name} || Name =/= <<>>],
           children = [#xmlel{name = <<"connection">>, attrs = [{<<"type">>, D}]} || D <- Directions]}.

%%% Service discovery.

features({error, _} = Found, _, _, _, _) ->
    Found;
features(Found, _, _, ?NODE, _) ->
    also(Found, [?NS_PUBSUB]);
features(Found, _, _, <<>>, _) ->
    also(Found, [?NS]);
features(Found, _, _, _, _) ->
    Found.

identity(Found, _, _, ?NODE, _) ->
    [#identity{category = <<"pubsub">>, type = <<"leaf">>} | Found];
identity(Found, _, _, <<>>, _) ->
    [#identity{category = <<"pubsub">>, type = <<"service">>, name = <<"Server information">>} | Found];
identity(Found, _, _, _, _) ->
    Found.

items({error, _} = Found, _, _, _, _) ->
    Found;
items(Found, _, To, <<>>, _) ->
    also(Found, [#disco_item{jid = jid:make(To#jid.lserver), node = ?NODE, name = <<"Server information">>}]);
items(Found, _, To, ?NODE, _) ->
    also(Found, [#disco_item{jid = jid:make(To#jid.lserver), name = ?ITEM}]);
items(Found, _, _, _, _) ->
    Found.

also({result, Found}, More) -> {result, More ++ Found};
also(empty, More) -> {result, More}.

%% XEP-0485 §8.2: in the form of XEP-0157. Asked for by mod_disco, and by mod_caps (undefined) for the hash over it.
info(Found, Host, Module, <<>>, _) when Module =:= mod_disco; Module =:= undefined ->
    Field = #xdata_field{type = 'text-single', var = <<"serverinfo-pubsub-node">>,
                         values = [<<"xmpp:", Host/binary, "?;node=", ?NODE/binary>>]},
    [case xmpp_util:has_xdata_var(<<"FORM_TYPE">>, Form) andalso xmpp_util:get_xdata_values(<<"FORM_TYPE">>, Form) of
         [<<"http://jabber.org/network/serverinfo">>] -> Form#xdata{fields = Form#xdata.fields ++ [Field]};
         _ -> Form
     end || Form <- Found];
info(Found, _, _, _, _) ->
    Found.

%%% Of mod_pubsub only what concerns the one node, and nothing that changes it.

process_iq(#iq{type = get, sub_els = [#pubsub{items = #ps_items{node = ?NODE} = Part}]} = Iq) ->
    mod_pubsub:process_pubsub(Iq#iq{sub_els = [#pubsub{items = Part}]});
process_iq(#iq{type = set, sub_els = [#pubsub{subscribe = #ps_subscribe{node = ?NODE} = Part}]} = Iq) ->
    mod_pubsub:process_pubsub(Iq#iq{sub_els = [#pubsub{subscribe = Part}]});
process_iq(#iq{type = set, sub_els = [#pubsub{unsubscribe = #ps_unsubscribe{node = ?NODE} = Part}]} = Iq) ->
    mod_pubsub:process_pubsub(Iq#iq{sub_els = [#pubsub{unsubscribe = Part}]});
process_iq(#iq{type = get, lang = Language} = Iq) ->
    xmpp:make_error(Iq, xmpp:err_item_not_found(<<"Node not found">>, Language));
process_iq(#iq{lang = Language} = Iq) ->
    xmpp:make_error(Iq, xmpp:err_forbidden(<<"Access denied by service policy">>, Language)).
